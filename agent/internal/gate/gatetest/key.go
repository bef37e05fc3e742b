// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package gatetest makes, in software, the signatures that no test machine can
// make for real: those of a FIDO security key, with and without a touch or a
// PIN. It is for tests only, and builds its blobs itself, so that what it
// makes does not agree with package gate by construction.
package gatetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"testing"

	"golang.org/x/crypto/ssh"
)

// The flags of a security key's assertion.
const (
	Touched byte = 0x01
	PIN     byte = 0x04
)

// SecurityKey is an sk-ssh-ed25519 key without the hardware.
type SecurityKey struct {
	pub  ssh.PublicKey
	priv ed25519.PrivateKey
}

const application = "ssh:"

// NewSecurityKey makes a key.
func NewSecurityKey(t testing.TB) *SecurityKey {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct{ Name, Key, App string }{ssh.KeyAlgoSKED25519, string(pub), application}))
	if err != nil {
		t.Fatal(err)
	}
	return &SecurityKey{pub: key, priv: priv}
}

// Line is the public key as a line of allowed_signers has it, with a newline.
func (k *SecurityKey) Line() string { return string(ssh.MarshalAuthorizedKey(k.pub)) }

// Sign signs a text as `ssh-keygen -Y sign -n namespace` does with a security
// key that reports these flags.
func (k *SecurityKey) Sign(text, namespace string, flags byte) string {
	sum := sha512.Sum512([]byte(text))
	data := append([]byte("SSHSIG"), ssh.Marshal(struct{ N, R, H, Sum string }{namespace, "", "sha512", string(sum[:])})...)
	app, msg := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	tail := []byte{flags, 0, 0, 0, 7}
	asserted := append(append(append([]byte{}, app[:]...), tail...), msg[:]...)
	sig := append(ssh.Marshal(struct {
		Format string
		Blob   []byte
	}{k.pub.Type(), ed25519.Sign(k.priv, asserted)}), tail...)
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version uint32
		Key     []byte
		N, R, H string
		Sig     []byte
	}{1, k.pub.Marshal(), namespace, "", "sha512", sig})...)
	return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob}))
}
