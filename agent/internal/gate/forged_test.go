// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"crypto/elliptic"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"golang.org/x/crypto/ssh"
)

const (
	bob  = "bob@example.com"
	dave = "dave@example.com" // who asks
)

// world is everything that an approval stands on. Each row of the table of
// forged approvals changes one thing of a world whose approval executes.
type world struct {
	t                testing.TB
	issued           *Request // what the agent issued
	sign             *Request // what people got to see and signed
	before           func([]byte) []byte
	after            func([]byte) []byte
	alice, bob, ca   *testKey
	other            *testKey // listed nowhere
	aliceSig, bobSig sigForm
	aliceName        string
	signatures       func([]Signed) []Signed
	signers, revoked string
	policy           Policy
	verifyAt         time.Time
	present          Present
	executed         int
}

// newWorld: two signatures are needed, of alice's key and of bob's security
// key; who asks does not count. It is all in order.
func newWorld(t testing.TB, keys *forgers) *world {
	r, s := testRequest(), testRequest()
	w := &world{
		t: t, issued: r, sign: s, alice: keys.alice, bob: keys.bob, ca: keys.ca, other: keys.other,
		aliceSig: sigForm{namespace: ApprovalNamespace}, bobSig: sigForm{namespace: ApprovalNamespace}, aliceName: alice,
		policy:   Policy{Classes: map[guest.Class]Rule{guest.Irreversible: {Threshold: 2, FourEyes: true}}, Skew: time.Minute},
		verifyAt: testNow,
		present: Present{
			Now: testNow.Add(time.Second), ClockSynchronised: true, OpID: r.OpID, Host: r.Host, Action: r.Action, Guest: r.Guest,
			Incarnation: r.Incarnation, PlanHash: r.PlanHash, Effects: slices.Clone(r.Effects),
		},
	}
	w.signers = fmt.Sprintf("%s namespaces=\"felhom-*\",valid-before=\"20270101Z\" %s\n%s %s\n*@example.com cert-authority %s\n",
		alice, keys.alice.line(), bob, keys.bob.line(), keys.ca.line())
	w.revoked = keys.gone.line() + " lost in 2025\n"
	return w
}

// run is an approval from issue to execution.
func (w *world) run() error {
	issued, err := w.issued.Text()
	if err != nil {
		w.t.Fatal(err)
	}
	w.present.Issued = issued
	text := w.sign.print()
	if w.before != nil {
		text = w.before(text)
	}
	signed := []Signed{{w.aliceName, w.alice.sshsigAs(text, w.aliceSig)}, {bob, w.bob.sshsigAs(text, w.bobSig)}}
	if w.signatures != nil {
		signed = w.signatures(signed)
	}
	if w.after != nil {
		text = w.after(bytes.Clone(text))
	}
	return w.decide(text, signed)
}

func (w *world) decide(text []byte, signed []Signed) error {
	signers, err := ParseSigners("allowed_signers", []byte(w.signers), time.UTC)
	if err != nil {
		return err
	}
	revoked, err := ParseRevoked("revoked_keys", []byte(w.revoked))
	if err != nil {
		return err
	}
	a, err := Verify(text, signed, w.policy, w.verifyAt, signers, revoked)
	if err != nil {
		return err
	}
	if err := a.Check(w.present); err != nil {
		return err
	}
	w.executed++
	return nil
}

// forgers are made once: the rows differ in other things.
type forgers struct{ alice, bob, ca, gone, other, small *testKey }

type forgery struct {
	name   string
	change func(*world)
	want   Reason
}

func replace(old, new string) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
}

// rule changes the one rule of the world's policy.
func rule(change func(*Rule)) func(*world) {
	return func(w *world) {
		r := w.policy.Classes[guest.Irreversible]
		change(&r)
		w.policy.Classes = map[guest.Class]Rule{guest.Irreversible: r}
	}
}

// aliceCert lets alice sign by a certificate of the listed authority. Without
// change that is accepted, see TestCertificateInTheWorldCounts.
func aliceCert(change func(*ssh.Certificate), names ...string) func(*world) {
	return func(w *world) { w.alice = certify(w.t, w.ca, w.alice, change, names...) }
}

func textForgeries() []forgery {
	return []forgery{
		{"one byte of the text altered", func(w *world) { w.after = replace("8 GiB", "9 GiB") }, ErrBadSignature},
		{"CRLF before signing", func(w *world) {
			w.before = func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
		}, ErrTextCRLF},
		{"CRLF after signing", func(w *world) {
			w.after = func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
		}, ErrTextCRLF},
		{"trailing newline", func(w *world) { w.before = func(b []byte) []byte { return append(b, '\n') } }, ErrTextTrailing},
		{"last newline cut off", func(w *world) { w.before = func(b []byte) []byte { return b[:len(b)-1] } }, ErrTextCut},
		{"a line of another text", func(w *world) { w.before = replace("nonce:", "force: yes\nnonce:") }, ErrTextUnknown},
		{"host twice", func(w *world) { w.before = replace("host: pve1\n", "host: pve1\nhost: pve1\n") }, ErrTextRepeated},
		{"no nonce", func(w *world) { w.before = replace("nonce: "+w.sign.Nonce+"\n", "") }, ErrTextMissing},
		{"lines in another order", func(w *world) { w.before = replace("host: pve1\nguest: lxc/105\n", "guest: lxc/105\nhost: pve1\n") }, ErrTextOrder},
		{"blank at a line's end", func(w *world) { w.before = replace("pve1\n", "pve1 \n") }, ErrTextLine},
		{"a letter that looks alike", func(w *world) { w.before = replace("pve1", "pv\u04351") }, ErrTextChar},
		{"another version", func(w *world) { w.before = replace("request v1", "request v2") }, ErrTextHeader},
		{"time with an offset", func(w *world) { w.before = replace("16:00:00Z", "16:00:00+00:00") }, ErrTextValue},
		{"a text without end", func(w *world) {
			w.before = func(b []byte) []byte { return append(b, strings.Repeat("effect: x\n", maxText/10)...) }
		}, ErrTextLong},
	}
}

func signatureForgeries(k *forgers) []forgery {
	return []forgery{
		{"no signature", func(w *world) { w.signatures = func([]Signed) []Signed { return nil } }, ErrUnsigned},
		{"seventeen signatures", func(w *world) {
			w.signatures = func(s []Signed) []Signed { return slices.Repeat(s, maxSignatures/2+1) }
		}, ErrTooMany},
		{"armor cut off", func(w *world) {
			w.signatures = func(s []Signed) []Signed { s[0].Armored = s[0].Armored[:120]; return s }
		}, ErrArmor},
		{"armor with CRLF", func(w *world) {
			w.signatures = func(s []Signed) []Signed {
				s[0].Armored = bytes.ReplaceAll(s[0].Armored, []byte("\n"), []byte("\r\n"))
				return s
			}
		}, ErrArmorCRLF},
		{"text after the armor", func(w *world) { w.aliceSig.after = "regards\n" }, ErrArmorJunk},
		{"armor without end", func(w *world) { w.aliceSig.after = strings.Repeat("\n", maxArmor) }, ErrArmorLong},
		{"bytes after the signature", func(w *world) { w.aliceSig.tail = "\x00" }, ErrSigFormat},
		{"bytes in the signature field", func(w *world) { w.aliceSig.sigTail = "\x00" }, ErrSigFormat},
		{"something in the reserved field", func(w *world) { w.aliceSig.reserved = "x" }, ErrSigFormat},
		{"another magic", func(w *world) { w.aliceSig.magic = "SSHSIX" }, ErrSigFormat},
		{"version 2 of SSHSIG", func(w *world) { w.aliceSig.version = 2 }, ErrSigVersion},
		{"namespace of git", func(w *world) { w.aliceSig.namespace = "git" }, ErrNamespace},
		{"namespace of git, relabelled", func(w *world) { w.aliceSig.signedNamespace = "git" }, ErrBadSignature},
		{"namespace of desired sets", func(w *world) { w.aliceSig.namespace = DesiredNamespace }, ErrNamespace},
		{"SHA-1", func(w *world) { w.aliceSig.hash = "sha1" }, ErrHash},
		{"RSA key of 1024 bits", func(w *world) { w.alice = k.small }, ErrKeyShort},
		{"RSA with SHA-1", func(w *world) { w.alice = newRSA(w.t, 2048).with(0, ssh.KeyAlgoRSA) }, ErrAlgorithm},
		{"DSA key", func(w *world) { w.alice = &testKey{pub: dsaKey(w.t), raw: w.alice.raw} }, ErrKeyType},
		{"another's signature under alice's key", func(w *world) { w.alice = &testKey{pub: w.alice.pub, raw: w.other.raw} }, ErrBadSignature},
		{"no touch", func(w *world) { w.bob = w.bob.with(0, "") }, ErrTouch},
		{"PIN without touch", func(w *world) { w.bob = w.bob.with(flagUV, "") }, ErrTouch},
		{"flags set after signing", func(w *world) { w.bob = w.bob.with(0, ""); w.bob.shown = flagUP }, ErrBadSignature},
	}
}

func signerForgeries(k *forgers) []forgery {
	return []forgery{
		{"key that nobody listed", func(w *world) { w.alice = w.other }, ErrUnknownSigner},
		{"bob's key under alice's name", func(w *world) { w.alice = w.bob }, ErrUnknownSigner},
		{"a name with a wildcard", func(w *world) { w.aliceName = "*" }, ErrPrincipal},
		{"key not for this namespace", func(w *world) { w.signers = strings.Replace(w.signers, "felhom-*", "git", 1) }, ErrSignerNamespace},
		{"key whose time is over", func(w *world) { w.signers = strings.Replace(w.signers, "20270101Z", "20261129152959Z", 1) }, ErrSignerLate},
		{"key whose time has not come", func(w *world) {
			w.signers = strings.Replace(w.signers, "valid-before=\"20270101Z", "valid-after=\"20261129153001Z", 1)
		}, ErrSignerEarly},
		{"revoked key", func(w *world) { w.revoked = w.alice.line() + "\n" }, ErrRevoked},
		{"unreadable revoked_keys", func(w *world) { w.revoked = "ssh-ed25519 AAAA\n" }, ErrRevokedFile},
		{"revoked_keys in binary", func(w *world) { w.revoked = string(krlMagic) }, ErrKRL},
		{"malformed line in allowed_signers", func(w *world) { w.signers += "mallory\n" }, ErrSignersFile},
		{"nobody named", func(w *world) {
			w.aliceName, w.signers = "", strings.Replace(w.signers, alice, alice+",alicia@example.com", 1)
		}, ErrWhoSigned},
		{"certificate of an unlisted authority", func(w *world) { w.alice = certify(w.t, w.other, w.alice, nil, alice) }, ErrUnknownSigner},
		{"certificate of a revoked authority", func(w *world) { aliceCert(nil, alice)(w); w.revoked = w.ca.line() + "\n" }, ErrCARevoked},
		{"certificate after its validity", aliceCert(func(c *ssh.Certificate) { c.ValidBefore = uint64(testNow.Unix()) }, alice), ErrCertLate},
		{"certificate before its validity", aliceCert(func(c *ssh.Certificate) { c.ValidAfter = uint64(testNow.Unix()) + 1 }, alice), ErrCertEarly},
		{"certificate of somebody else", aliceCert(nil, "carol@example.com"), ErrCertPrincipal},
		{"certificate of nobody", aliceCert(nil), ErrCertNobody},
		{"host certificate", aliceCert(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, alice), ErrCertKind},
		{"certificate with a critical option", aliceCert(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "::1"} }, alice), ErrCertOption},
		{"certificate that wants a PIN", aliceCert(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{verifyRequired: ""} }, alice), ErrPIN},
		{"certificate altered after it was signed", func(w *world) {
			aliceCert(nil, bob)(w)
			c := *w.alice.pub.(*ssh.Certificate)
			c.ValidPrincipals = []string{alice}
			w.alice = w.alice.withCert(&c)
		}, ErrCertSignature},
		{"certificate given for a key's line", func(w *world) {
			w.signers = strings.Replace(w.signers, "cert-authority ", "", 1)
			aliceCert(nil, alice)(w)
		}, ErrUnknownSigner},
	}
}

func policyForgeries() []forgery {
	return []forgery{
		{"too few", func(w *world) { w.signatures = func(s []Signed) []Signed { return s[:1] } }, ErrThreshold},
		{"three wanted", rule(func(r *Rule) { r.Threshold = 3 }), ErrThreshold},
		{"one key twice", func(w *world) { w.signatures = func(s []Signed) []Signed { return []Signed{s[0], s[0]} } }, ErrSameKey},
		{"one key under two names", func(w *world) {
			w.signers += bob + " " + w.alice.line() + "\n"
			w.signatures = func(s []Signed) []Signed { return []Signed{s[0], {bob, s[0].Armored}} }
		}, ErrSameKey},
		{"one key plain and in a certificate", func(w *world) {
			plain := w.alice
			aliceCert(nil, "carol@example.com")(w)
			w.aliceName = "carol@example.com"
			w.signatures = func(s []Signed) []Signed {
				return []Signed{s[0], {alice, plain.sshsig(w.sign.print(), ApprovalNamespace)}}
			}
		}, ErrSameKey},
		{"one person with two keys", func(w *world) {
			w.signers += alice + " " + w.other.line() + "\n"
			w.signatures = func(s []Signed) []Signed {
				return []Signed{s[0], {alice, w.other.sshsig(w.sign.print(), ApprovalNamespace)}}
			}
		}, ErrSamePerson},
		{"one person in two cases of letters", func(w *world) {
			w.signers += "Alice@Example.com " + w.other.line() + "\n"
			w.signatures = func(s []Signed) []Signed {
				return []Signed{s[0], {"Alice@Example.com", w.other.sshsig(w.sign.print(), ApprovalNamespace)}}
			}
		}, ErrSamePerson},
		{"second key that may speak for the first", func(w *world) {
			w.signers += "b*,alice@* " + w.other.line() + "\n"
			w.signatures = func(s []Signed) []Signed {
				return []Signed{s[0], {bob, w.other.sshsig(w.sign.print(), ApprovalNamespace)}}
			}
		}, ErrSamePerson},
		{"certificate that is good for the first signer's name too", func(w *world) {
			cert := certify(w.t, w.ca, w.other, nil, bob, alice)
			w.signatures = func(s []Signed) []Signed {
				return []Signed{s[0], {bob, cert.sshsig(w.sign.print(), ApprovalNamespace)}}
			}
		}, ErrSamePerson},
		{"the asker signs", func(w *world) { w.issued.Asker, w.sign.Asker = alice, alice }, ErrAsker},
		{"the asker's key signs in another name", func(w *world) { w.signers += dave + " " + w.alice.line() + "\n" }, ErrAsker},
		{"security keys wanted", rule(func(r *Rule) { r.SecurityKey = true }), ErrNoHardware},
		{"PIN wanted", func(w *world) {
			rule(func(r *Rule) { *r = Rule{Threshold: 1, PIN: true} })(w)
			w.signatures = func(s []Signed) []Signed { return s[1:] }
		}, ErrPIN},
		{"no rule for the class", func(w *world) { w.policy.Classes = map[guest.Class]Rule{guest.Additive: {Threshold: 1}} }, ErrNoRule},
		{"policy without a threshold", rule(func(r *Rule) { r.Threshold = 0 }), ErrPolicy},
		{"expired one second ago when handed in", func(w *world) { w.verifyAt = w.sign.NotAfter.Add(time.Second) }, ErrExpired},
		{"expired one second ago when executing", func(w *world) { w.present.Now = w.sign.NotAfter.Add(time.Second) }, ErrExpired},
		{"before its time, beyond the skew", func(w *world) { w.verifyAt = w.sign.NotBefore.Add(-61 * time.Second) }, ErrEarly},
		{"valid for longer than policy allows", func(w *world) { w.policy.MaxWindow = 59 * time.Minute }, ErrLongWindow},
		{"end before its start", func(w *world) { w.sign.NotBefore = w.sign.NotAfter }, ErrEmptyWindow},
	}
}

func presentForgeries() []forgery {
	return []forgery{
		{"clock unsynchronised", func(w *world) { w.present.ClockSynchronised = false }, ErrClock},
		{"another host's", func(w *world) { w.present.Host = "pve2" }, ErrOtherHost},
		{"another operation's", func(w *world) { w.present.OpID = "019311aa22bb33cc44dd56" }, ErrOtherOp},
		{"another guest's", func(w *world) { w.present.Guest.VMID = 106 }, ErrOtherGuest},
		{"same VMID, another kind", func(w *world) { w.present.Guest.Kind = guest.QEMU }, ErrOtherGuest},
		{"same VMID after re-creation", func(w *world) { w.present.Incarnation = "inc-0000" }, ErrOtherIncarnation},
		{"another action", func(w *world) { w.present.Action = "rollback" }, ErrOtherAction},
		{"plan changed after signing", func(w *world) { w.present.PlanHash = strings.Repeat("00", 32) }, ErrOtherPlan},
		{"an effect more", func(w *world) { w.present.Effects = append(w.present.Effects, "delete local-lvm:vm-105-disk-1 80 GiB") }, ErrOtherEffects},
		{"an effect less", func(w *world) { w.present.Effects = w.present.Effects[:2] }, ErrOtherEffects},
		{"nonce used before a crash", func(w *world) { w.present.NonceUsed = true }, ErrNonceUsed},
		{"nonce of an older request", func(w *world) { w.sign.Nonce = strings.Repeat("0d", 16) }, ErrOtherNonce},
		{"asker swapped", func(w *world) { w.sign.Asker = "erin@example.com" }, ErrOtherAsker},
		{"window stretched", func(w *world) { w.sign.NotAfter = w.sign.NotAfter.Add(time.Hour) }, ErrNotIssued},
		{"journal head of a fork", func(w *world) { w.sign.Journal.Hash = strings.Repeat("ce", 32) }, ErrNotIssued},
	}
}

// TestForgedApprovals: each row differs by one thing from an approval that is
// accepted and executes here, and is refused with its own reason.
func TestForgedApprovals(t *testing.T) {
	keys := &forgers{
		alice: newEd25519(t), bob: newSK(t, ssh.KeyAlgoSKED25519), ca: newECDSA(t, elliptic.P256()), gone: newEd25519(t),
		other: newEd25519(t), small: smallRSA(t),
	}
	rows := slices.Concat(textForgeries(), signatureForgeries(keys), signerForgeries(keys), policyForgeries(), presentForgeries())
	refused, reasons := 0, map[Reason]bool{}
	for _, row := range rows {
		ok := t.Run(row.name, func(t *testing.T) {
			good := newWorld(t, keys)
			if err := good.run(); err != nil || good.executed != 1 {
				t.Fatalf("the approval that it differs from: %v, executed %d times", err, good.executed)
			}
			w := newWorld(t, keys)
			row.change(w)
			err := w.run()
			wantReason(t, err, row.want)
			if w.executed != 0 {
				t.Error("executed")
			}
		})
		reasons[row.want] = true
		if ok {
			refused++
		}
	}
	if len(rows) < 40 {
		t.Errorf("%d rows, want at least 40", len(rows))
	}
	t.Logf("%d reasons in %d rows", len(reasons), len(rows))
	fmt.Printf("forged approvals: %d refused of %d\n", refused, len(rows))
}

// TestCertificateInTheWorldCounts shows that the rows with certificates fail
// for what they change, and not for being certificates.
func TestCertificateInTheWorldCounts(t *testing.T) {
	keys := &forgers{
		alice: newEd25519(t), bob: newSK(t, ssh.KeyAlgoSKECDSA256), ca: newECDSA(t, elliptic.P256()), gone: newEd25519(t), other: newEd25519(t),
	}
	w := newWorld(t, keys)
	aliceCert(nil, alice)(w)
	if err := w.run(); err != nil || w.executed != 1 {
		t.Errorf("executed %d times: %v", w.executed, err)
	}
	w = newWorld(t, keys)
	w.policy.Classes[guest.Irreversible] = Rule{Threshold: 1, PIN: true}
	w.bob = w.bob.with(flagUP|flagUV, "")
	w.signatures = func(s []Signed) []Signed { return s[1:] }
	if err := w.run(); err != nil || w.executed != 1 {
		t.Errorf("with PIN: executed %d times: %v", w.executed, err)
	}
}
