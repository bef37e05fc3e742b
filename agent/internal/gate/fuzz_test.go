// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"testing"
	"time"
)

// FuzzRequest: what is read prints back as the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(wantText))
	f.Add([]byte(wantPermit))
	f.Add([]byte(wantIndex))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRequest(text); err == nil {
			again, err := r.Text()
			if err != nil || !bytes.Equal(again, text) {
				t.Errorf("request prints as %q, %v", again, err)
			}
		} else if ReasonOf(err) == "" {
			t.Errorf("refused without a reason: %v", err)
		}
		if p, err := ParsePermit(text); err == nil && !bytes.Equal(p.print(), text) {
			t.Errorf("permit prints as %q", p.print())
		}
		if x, err := ParseIndex(text); err == nil && !bytes.Equal(x.print(), text) {
			t.Errorf("index prints as %q", x.print())
		}
	})
}

// FuzzSigners: no input panics, takes long or is refused without a reason and
// a line, and no file lets an unlisted key sign.
func FuzzSigners(f *testing.F) {
	listed, stranger := newEd25519(f), newEd25519(f)
	for _, s := range append(usualPrincipals, oddPrincipals...) {
		f.Add([]byte(s + " " + listed.line() + "\n"))
	}
	for _, s := range append(usualOptions, oddOptions...) {
		f.Add([]byte("# c\nalice " + s + " " + listed.line() + " c"))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRevoked("f", data); err != nil && ReasonOf(err) == "" || r.Len() > len(data) {
			t.Errorf("revoked: %v", err)
		}
		s, err := ParseSigners("f", data, time.UTC)
		if err != nil {
			if ReasonOf(err) != ErrSignersFile {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if _, err := s.authorise(stranger.pub, alice, ApprovalNamespace, testNow); err == nil {
			t.Error("a stranger may sign")
		}
	})
}

// FuzzSignature: no armored input panics, and none but the true signature
// passes for the key's.
func FuzzSignature(f *testing.F) {
	key, text := newEd25519(f), []byte(wantText)
	sk := newSK(f, "sk-ssh-ed25519@openssh.com")
	signers := mustSigners(f, alice+" "+key.line()+"\n"+alice+" "+sk.line()+"\n")
	good, touched := key.sshsig(text, ApprovalNamespace), sk.sshsig(text, ApprovalNamespace)
	f.Add(key.sshsig(text, "git"))
	f.Add(sk.with(0, "").sshsig(text, ApprovalNamespace))
	f.Add(certify(f, key, sk, nil, alice).sshsig(text, ApprovalNamespace))
	f.Add(good)
	f.Fuzz(func(t *testing.T, armored []byte) {
		if _, err := SplitSignatures(armored); err != nil && ReasonOf(err) == "" {
			t.Errorf("split: %v", err)
		}
		_, err := VerifyOne(text, ApprovalNamespace, Signed{alice, armored}, testNow, signers, nil)
		if trimmed := append(bytes.TrimSuffix(armored, []byte("\n")), '\n'); err == nil && !bytes.Equal(trimmed, good) && !bytes.Equal(trimmed, touched) {
			t.Errorf("accepted: %q", armored)
		}
		if err != nil && ReasonOf(err) == "" {
			t.Errorf("refused without a reason: %v", err)
		}
	})
}
