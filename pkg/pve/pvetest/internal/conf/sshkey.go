// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"regexp"
	"strings"
)

var sshTypes = makeSet(`ssh-ed25519 ssh-rsa ssh-dss ecdsa-sha2-nistp256 ecdsa-sha2-nistp384 ecdsa-sha2-nistp521
	sk-ssh-ed25519@openssh.com sk-ecdsa-sha2-nistp256@openssh.com`)

// sshBlobOK reports whether a key's blob is a whole number of fields, the
// first of which repeats the type.
func sshBlobOK(keyType string, raw []byte) bool {
	var fields [][]byte
	for len(raw) > 0 {
		if len(raw) < 4 {
			return false
		}
		n := binary.BigEndian.Uint32(raw)
		if uint64(n) > uint64(len(raw)-4) {
			return false
		}
		fields = append(fields, raw[4:4+n])
		raw = raw[4+n:]
	}
	if len(fields) < 2 || string(fields[0]) != keyType {
		return false
	}
	return keyType != "ssh-ed25519" || len(fields[1]) == 32
}

var cryptRE = regexp.MustCompile(`^\$(?:[156]|2[ay])(\$.+){2}`)

// crypt stands for the salted hash PVE stores of a password. It has the form
// of one (sha256-crypt) without being one: nobody can log in with it.
func (e *Env) crypt(clear string) string {
	salt := base64.RawStdEncoding.EncodeToString([]byte(e.uuid()))[:8]
	sum := sha256.Sum256([]byte(salt + clear))
	hash := strings.NewReplacer("+", ".").Replace(base64.RawStdEncoding.EncodeToString(sum[:]))
	return "$5$" + strings.ReplaceAll(salt, "+", ".") + "$" + hash
}
