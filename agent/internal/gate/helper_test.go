// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var testNow = time.Date(2026, 11, 29, 15, 30, 0, 0, time.UTC)

// testKey signs in software. pub may be replaced by a certificate for it.
type testKey struct {
	pub   ssh.PublicKey
	raw   crypto.Signer
	flags byte   // of the security key's assertion
	shown byte   // flags told in place of those signed, if not zero
	alg   string // RSA
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newEd25519(t testing.TB) *testKey {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return fromRaw(t, priv)
}

func newECDSA(t testing.TB, c elliptic.Curve) *testKey {
	t.Helper()
	return fromRaw(t, must(ecdsa.GenerateKey(c, rand.Reader)))
}

func newRSA(t testing.TB, bits int) *testKey {
	t.Helper()
	k := fromRaw(t, must(rsa.GenerateKey(rand.Reader, bits)))
	k.alg = ssh.KeyAlgoRSASHA512
	return k
}

func fromRaw(t testing.TB, raw crypto.Signer) *testKey {
	t.Helper()
	if p, ok := raw.(*ed25519.PrivateKey); ok { // as x/crypto/ssh reads it from a file
		raw = *p
	}
	pub, err := ssh.NewPublicKey(raw.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &testKey{pub: pub, raw: raw}
}

const testApplication = "ssh:"

// newSK makes a security key in software: what a FIDO token would sign, signed
// by a plain key.
func newSK(t testing.TB, kind string) *testKey {
	t.Helper()
	if kind == ssh.KeyAlgoSKED25519 {
		pub, priv, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		blob := ssh.Marshal(struct{ Name, Key, App string }{kind, string(pub), testApplication})
		return &testKey{pub: must(ssh.ParsePublicKey(blob)), raw: priv, flags: flagUP}
	}
	priv := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	point := must(priv.PublicKey.Bytes())
	blob := ssh.Marshal(struct{ Name, Curve, Key, App string }{kind, "nistp256", string(point), testApplication})
	return &testKey{pub: must(ssh.ParsePublicKey(blob)), raw: priv, flags: flagUP}
}

// with returns a copy that signs with other flags or another algorithm.
func (k *testKey) with(flags byte, alg string) *testKey {
	c := *k
	c.flags, c.alg = flags, alg
	return &c
}

// withCert returns a copy that shows a certificate.
func (k *testKey) withCert(c *ssh.Certificate) *testKey {
	out := *k
	out.pub = c
	return &out
}

// sign is the content of the signature field: format, blob, and for a security
// key flags and counter.
func (k *testKey) sign(data []byte) []byte {
	plain := plainKey(k.pub)
	format := plain.Type()
	if k.alg != "" {
		format = k.alg
	}
	if !isSecurityKey(plain) {
		return ssh.Marshal(struct {
			Format string
			Blob   []byte
		}{format, k.rawSign(data, format)})
	}
	tail := []byte{k.flags, 0, 0, 0, 7}
	app, msg := sha256.Sum256([]byte(testApplication)), sha256.Sum256(data)
	asserted := append(append(app[:], tail...), msg[:]...)
	return append(ssh.Marshal(struct {
		Format string
		Blob   []byte
	}{format, k.rawSign(asserted, format)}), k.shownFlags(), 0, 0, 0, 7)
}

func (k *testKey) shownFlags() byte {
	if k.shown != 0 {
		return k.shown
	}
	return k.flags
}

func (k *testKey) rawSign(data []byte, format string) []byte {
	switch priv := k.raw.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(priv, data)
	case *ecdsa.PrivateKey:
		hash := map[string]crypto.Hash{ssh.KeyAlgoECDSA384: crypto.SHA384, ssh.KeyAlgoECDSA521: crypto.SHA512}[format]
		if hash == 0 {
			hash = crypto.SHA256
		}
		h := hash.New()
		h.Write(data)
		r, s, err := ecdsa.Sign(rand.Reader, priv, h.Sum(nil))
		if err != nil {
			panic(err)
		}
		return ssh.Marshal(struct{ R, S *big.Int }{r, s})
	case *rsa.PrivateKey:
		hash := map[string]crypto.Hash{ssh.KeyAlgoRSA: crypto.SHA1, ssh.KeyAlgoRSASHA256: crypto.SHA256, ssh.KeyAlgoRSASHA512: crypto.SHA512}[format]
		h := hash.New()
		h.Write(data)
		return must(rsa.SignPKCS1v15(rand.Reader, priv, hash, h.Sum(nil)))
	}
	panic("unknown key")
}

// sigForm is the content of an SSHSIG blob; the zero values are filled in.
type sigForm struct {
	version            uint32
	namespace          string
	reserved, hash     string
	magic, tail        string
	sigTail            string // after the signature field's content
	signed             []byte // the signature field, if not the true one
	signedNamespace    string // what is under the signature, if not namespace
	armorBefore, after string
}

func (k *testKey) sshsig(msg []byte, namespace string) []byte {
	return k.sshsigAs(msg, sigForm{namespace: namespace})
}

func (k *testKey) sshsigAs(msg []byte, f sigForm) []byte {
	if f.version == 0 {
		f.version = 1
	}
	if f.hash == "" {
		f.hash = "sha512"
	}
	if f.magic == "" {
		f.magic = sigMagic
	}
	if f.signedNamespace == "" {
		f.signedNamespace = f.namespace
	}
	if f.signed == nil {
		f.signed = k.sign(append([]byte(sigMagic), ssh.Marshal(struct{ N, R, H, Sum string }{f.signedNamespace, "", f.hash, digest(f.hash, msg)})...))
	}
	blob := append([]byte(f.magic), ssh.Marshal(struct {
		Version uint32
		Key     []byte
		N, R, H string
		Sig     []byte
	}{f.version, k.pub.Marshal(), f.namespace, f.reserved, f.hash, append(f.signed, f.sigTail...)})...)
	return []byte(f.armorBefore + armorText(append(blob, f.tail...)) + f.after)
}

func digest(hash string, msg []byte) string {
	if hash == "sha256" {
		sum := sha256.Sum256(msg)
		return string(sum[:])
	}
	sum := sha512.Sum512(msg)
	return string(sum[:])
}

func armorText(blob []byte) string {
	var b strings.Builder
	b.WriteString(armorBegin + "\n")
	for s := base64.StdEncoding.EncodeToString(blob); s != ""; {
		n := min(70, len(s))
		b.WriteString(s[:n] + "\n")
		s = s[n:]
	}
	b.WriteString(armorEnd + "\n")
	return b.String()
}

// line is "keytype base64" of the plain key.
func (k *testKey) line() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(plainKey(k.pub))))
}

// certify makes a user certificate for k signed by ca, valid around testNow.
func certify(t testing.TB, ca, k *testKey, change func(*ssh.Certificate), principals ...string) *testKey {
	t.Helper()
	c := &ssh.Certificate{
		Key: plainKey(k.pub), Serial: 7, CertType: ssh.UserCert, KeyId: "test", ValidPrincipals: principals,
		ValidAfter: uint64(testNow.Add(-time.Hour).Unix()), ValidBefore: uint64(testNow.Add(time.Hour).Unix()),
	}
	if change != nil {
		change(c)
	}
	if err := c.SignCert(rand.Reader, certSigner{ca}); err != nil {
		t.Fatal(err)
	}
	return k.withCert(c)
}

// certSigner lets a testKey, security keys included, sign certificates.
type certSigner struct{ *testKey }

func (s certSigner) PublicKey() ssh.PublicKey { return s.pub }

func (s certSigner) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	var w struct {
		Format string
		Blob   []byte
		Rest   []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(s.sign(data), &w); err != nil {
		return nil, err
	}
	return &ssh.Signature{Format: w.Format, Blob: w.Blob, Rest: w.Rest}, nil
}

func mustSigners(t testing.TB, text string) *Signers {
	t.Helper()
	s, err := ParseSigners("allowed_signers", []byte(text), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantReason checks a refusal's reason; "" means that it was accepted.
func wantReason(t *testing.T, err error, want Reason) {
	t.Helper()
	if got := ReasonOf(err); got != want || (err == nil) != (want == "") {
		t.Errorf("refused with %q (%v), want %q", got, err, want)
	}
	if want != "" && !errors.Is(err, want) {
		t.Errorf("errors.Is(%v, %q) = false", err, want)
	}
}
