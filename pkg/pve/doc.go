// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package pve is a small client for the API of Proxmox VE (PVE), for programs
// that must know what became of what they asked for.
//
// It guarantees that
//
//   - a request that changes something goes out at most once, on a connection
//     of its own; only reads are tried again, once, and only after an error
//     that passes by itself;
//   - every failure is an [*Error] with PVE's own words and a [Kind]; a change
//     whose outcome cannot be known is [ErrUnknownOutcome], and [ErrNotSent]
//     means that no byte of the request left this process;
//   - the server is always verified, by CA, by pinned public key or by both;
//   - the token's secret is in no error and in no log line, and an answer that
//     is too large or too slow ends in an error.
//
// A [Client] speaks for one API token and is safe for concurrent use. Calls
// about a guest take a [Ref]. Calls that PVE answers with a task return its
// [UPID], to be followed with [Client.Wait].
package pve
