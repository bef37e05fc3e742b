// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package gate decides whether a signed text is a permission: it prints and
// reads the texts that people sign, checks SSHSIG signatures against OpenSSH's
// allowed_signers and revoked_keys, and counts who signed.
//
// Three texts are signed, each with a header line of its own:
//
//   - a [Request], the approval of one irreversible operation on one guest of
//     one host (namespace felhom-approval-v1),
//   - a [Permit], a standing permission with a scope, a count and a window
//     (same namespace),
//   - an [Index], the list of the files of a desired state (namespace
//     felhom-desired-v1).
//
// It guarantees for promise P4:
//
//   - The exact bytes are what counts. A text is accepted only in the one form
//     that this package prints; there is no canonicalisation to disagree about.
//   - What ssh-keygen -Y verify refuses is refused here too, and some of what
//     it lets pass is refused as well: a FIDO signature without touch, RSA
//     below 2048 bits, certificates with critical options nobody here knows, a
//     file with one malformed line.
//   - Nobody is counted twice: neither a key, nor a name, nor a key that may
//     speak for another signer's name, nor (with four eyes) for the asker's.
//   - Every refusal is a [Refusal] with a [Reason] that tells it apart.
//
// The package is pure: no clock, no files, no network, no goroutine. It does
// not know which nonces were used, what the guest looks like now or how often
// a permit was used; the caller says so in [Present] and [Use], and must call
// [Approval.Check] on a fresh observation right before it acts. Consuming the
// nonce is the caller's, in the same journal record as the intent.
//
// The order of use for an approval: [Request.Text], hand it out, collect the
// signatures, [Verify], observe, [Approval.Check], journal the intent with
// [Request.Nonce], act.
package gate
