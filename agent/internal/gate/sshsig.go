// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

const (
	sigMagic   = "SSHSIG"
	minRSABits = 2048
	// The flags of a FIDO assertion.
	flagUP = 0x01 // user present: touched
	flagUV = 0x04 // user verified: PIN or fingerprint
)

// algorithms lists the accepted key types and the signature algorithms each
// may use. RSA with SHA-1 (ssh-rsa as an algorithm) and DSA are not there.
var algorithms = map[string][]string{
	ssh.KeyAlgoED25519:    {ssh.KeyAlgoED25519},
	ssh.KeyAlgoECDSA256:   {ssh.KeyAlgoECDSA256},
	ssh.KeyAlgoECDSA384:   {ssh.KeyAlgoECDSA384},
	ssh.KeyAlgoECDSA521:   {ssh.KeyAlgoECDSA521},
	ssh.KeyAlgoRSA:        {ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
	ssh.KeyAlgoSKED25519:  {ssh.KeyAlgoSKED25519},
	ssh.KeyAlgoSKECDSA256: {ssh.KeyAlgoSKECDSA256},
}

// Signature is one SSHSIG signature taken apart. Nothing in it is trusted
// before Verify.
type Signature struct {
	Namespace string
	Hash      string        // sha256 or sha512
	key       ssh.PublicKey // may be an *ssh.Certificate
	sig       *ssh.Signature
}

// ParseSignature reads an armored SSHSIG signature, strictly.
func ParseSignature(armored []byte) (*Signature, error) {
	blob, err := dearmor(armored)
	if err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(blob, []byte(sigMagic))
	if !ok {
		return nil, refuse(ErrSigFormat, "it does not begin with %s", sigMagic)
	}
	var w struct {
		Version   uint32
		Key       []byte
		Namespace string
		Reserved  []byte
		Hash      string
		Sig       []byte
	}
	if err := ssh.Unmarshal(rest, &w); err != nil {
		return nil, refuse(ErrSigFormat, "%v", err)
	}
	switch {
	case w.Version != 1:
		return nil, refuse(ErrSigVersion, "version %d", w.Version)
	case len(w.Reserved) != 0:
		return nil, refuse(ErrSigFormat, "its reserved field is not empty")
	case w.Hash != "sha256" && w.Hash != "sha512":
		return nil, refuse(ErrHash, "%q", w.Hash)
	}
	s := &Signature{Namespace: w.Namespace, Hash: w.Hash}
	if err := s.parse(w.Key, w.Sig); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Signature) parse(key, sig []byte) error {
	var err error
	if s.key, err = ssh.ParsePublicKey(key); err != nil {
		return refuse(ErrSigFormat, "its key: %v", err)
	}
	var w struct {
		Format string
		Blob   []byte
		Rest   []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(sig, &w); err != nil {
		return refuse(ErrSigFormat, "its signature: %v", err)
	}
	s.sig = &ssh.Signature{Format: w.Format, Blob: w.Blob, Rest: w.Rest}
	if err := checkKey(plainKey(s.key)); err != nil {
		return err
	}
	return checkAlgorithm(plainKey(s.key), s.sig)
}

// checkKey refuses key types and sizes that are not accepted.
func checkKey(key ssh.PublicKey) error {
	if _, ok := algorithms[key.Type()]; !ok {
		return refuse(ErrKeyType, "%s", key.Type())
	}
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
			return refuse(ErrKeyShort, "%d bits", r.N.BitLen())
		}
	}
	return nil
}

func checkAlgorithm(key ssh.PublicKey, sig *ssh.Signature) error {
	if !slices.Contains(algorithms[key.Type()], sig.Format) {
		return refuse(ErrAlgorithm, "%q with a key of type %s", sig.Format, key.Type())
	}
	if want := restLength(key); len(sig.Rest) != want {
		return refuse(ErrSigFormat, "%d bytes after the signature, want %d", len(sig.Rest), want)
	}
	return nil
}

// restLength is what follows the signature proper: for a security key the
// flags (one byte) and the counter (four).
func restLength(key ssh.PublicKey) int {
	if isSecurityKey(key) {
		return 5
	}
	return 0
}

func isSecurityKey(key ssh.PublicKey) bool { return strings.HasPrefix(key.Type(), "sk-") }

// plainKey is the key itself, also when it came in a certificate.
func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if c, ok := key.(*ssh.Certificate); ok {
		return c.Key
	}
	return key
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// Verify checks that the signature is of message, made for namespace, and, for
// a security key, with touch. It says nothing of whether its key may sign.
func (s *Signature) Verify(message []byte, namespace string) error {
	if s.Namespace != namespace {
		return refuse(ErrNamespace, "%q, want %q", s.Namespace, namespace)
	}
	key := plainKey(s.key)
	if err := checkTouch(key, s.sig); err != nil {
		return err
	}
	if err := key.Verify(s.signedData(message), s.sig); err != nil {
		return refuse(ErrBadSignature, "%v", err)
	}
	return nil
}

// checkTouch is asked again by x/crypto/ssh since v0.52; a test proves that
// either alone refuses.
func checkTouch(key ssh.PublicKey, sig *ssh.Signature) error {
	if isSecurityKey(key) && sig.Rest[0]&flagUP == 0 {
		return refuse(ErrTouch, "flags 0x%02x", sig.Rest[0])
	}
	return nil
}

// PIN reports whether a security key checked its user's PIN or fingerprint for
// this signature. It means something after Verify only.
func (s *Signature) PIN() bool { return s.SecurityKey() && s.sig.Rest[0]&flagUV != 0 }

// SecurityKey reports whether the key is a FIDO security key.
func (s *Signature) SecurityKey() bool { return isSecurityKey(plainKey(s.key)) }

// Fingerprint names the key, without its certificate, as ssh-keygen -l does.
func (s *Signature) Fingerprint() string { return ssh.FingerprintSHA256(plainKey(s.key)) }

func (s *Signature) signedData(message []byte) []byte {
	var sum []byte
	if s.Hash == "sha256" {
		h := sha256.Sum256(message)
		sum = h[:]
	} else {
		h := sha512.Sum512(message)
		sum = h[:]
	}
	return append([]byte(sigMagic), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Sum                       []byte
	}{s.Namespace, "", s.Hash, sum})...)
}
