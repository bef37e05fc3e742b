// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"

	"golang.org/x/crypto/ssh"
)

// Revoked is a revoked_keys file: keys that count no more, whatever
// allowed_signers says. A nil Revoked revokes nothing.
type Revoked struct{ keys []ssh.PublicKey }

// krlMagic begins OpenSSH's binary key revocation lists.
var krlMagic = []byte("SSHKRL\n\x00")

// ParseRevoked reads a revoked_keys file of plain public keys, one a line, as
// ssh-keygen -Y verify -r takes it. A certificate in it revokes its key. Any
// malformed line refuses the file: a key that was meant to be revoked must not
// go on counting because of a slip.
func ParseRevoked(file string, data []byte) (*Revoked, error) {
	if bytes.HasPrefix(data, krlMagic) {
		return nil, refuse(ErrKRL, "%s", file)
	}
	r := &Revoked{}
	err := eachKeyLine(ErrRevokedFile, file, data, func(_ int, text string) string {
		key, why := parseKeyFields(text)
		if why == "" {
			r.keys = append(r.keys, plainKey(key))
		}
		return why
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Len is the number of revoked keys.
func (r *Revoked) Len() int {
	if r == nil {
		return 0
	}
	return len(r.keys)
}

func (r *Revoked) has(key ssh.PublicKey) bool {
	if r == nil {
		return false
	}
	for _, k := range r.keys {
		if sameKey(k, key) {
			return true
		}
	}
	return false
}

// check refuses a revoked key and a certificate of a revoked authority.
func (r *Revoked) check(key ssh.PublicKey) error {
	if r.has(plainKey(key)) {
		return refuse(ErrRevoked, "%s", ssh.FingerprintSHA256(plainKey(key)))
	}
	if c, ok := key.(*ssh.Certificate); ok && r.has(c.SignatureKey) {
		return refuse(ErrCARevoked, "%s", ssh.FingerprintSHA256(c.SignatureKey))
	}
	return nil
}
