// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"
)

// smallRSA is a key of 1024 bits. The standard library neither makes nor uses
// such a key, and the gate must refuse it before asking it anything; so a
// modulus of that length without known factors does.
func smallRSA(t testing.TB) *testKey {
	t.Helper()
	n := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1023), big.NewInt(13))
	blob := ssh.Marshal(struct {
		Name string
		E, N *big.Int
	}{ssh.KeyAlgoRSA, big.NewInt(65537), n})
	pub, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return &testKey{pub: pub, raw: newEd25519(t).raw, alg: ssh.KeyAlgoRSASHA512}
}

// dsaKey is a public DSA key in form, with made-up numbers of the right
// lengths.
func dsaKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	bits := func(n uint) *big.Int { return new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), n-1), big.NewInt(7)) }
	blob := ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", bits(1024), bits(160), big.NewInt(5), big.NewInt(25)})
	pub, err := ssh.ParsePublicKey(blob)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}
