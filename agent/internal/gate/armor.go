// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/base64"
	"strings"
)

const (
	armorBegin = "-----BEGIN SSH SIGNATURE-----"
	armorEnd   = "-----END SSH SIGNATURE-----"
	maxArmor   = 32 << 10
	// armorWidth is the longest line the SSHSIG format advises; ssh-keygen's
	// lines have 70 columns.
	armorWidth = 76
)

// SplitSignatures cuts a paste of one or more armored signatures into single
// ones. Empty lines between them are allowed, anything else is not. It checks
// no signature.
func SplitSignatures(paste []byte) ([][]byte, error) {
	if len(paste) > maxArmor*maxSignatures {
		return nil, refuse(ErrArmorLong, "%d bytes", len(paste))
	}
	var out [][]byte
	for rest := bytes.TrimLeft(paste, "\n"); len(rest) > 0; rest = bytes.TrimLeft(rest, "\n") {
		end := bytes.Index(rest, []byte("\n"+armorEnd))
		if !bytes.HasPrefix(rest, []byte(armorBegin+"\n")) || end < 0 {
			return nil, refuse(ErrArmorJunk, "signature %d", len(out)+1)
		}
		end += 1 + len(armorEnd)
		out = append(out, append(bytes.Clone(rest[:end]), '\n'))
		if rest = rest[end:]; len(rest) > 0 && rest[0] != '\n' {
			return nil, refuse(ErrArmorJunk, "after signature %d", len(out))
		}
	}
	if len(out) == 0 {
		return nil, refuse(ErrUnsigned, "")
	}
	return out, nil
}

// dearmor returns the blob of one armored signature: the form ssh-keygen
// writes, with lines of up to 76 columns, all but the last of one length, and
// one newline at the end, which may be missing.
func dearmor(armored []byte) ([]byte, error) {
	switch {
	case len(armored) > maxArmor:
		return nil, refuse(ErrArmorLong, "%d bytes, at most %d", len(armored), maxArmor)
	case bytes.ContainsRune(armored, '\r'):
		return nil, refuse(ErrArmorCRLF, "")
	}
	body, ok := strings.CutPrefix(string(armored), armorBegin+"\n")
	if !ok {
		return nil, refuse(ErrArmor, "it does not begin with %q", armorBegin)
	}
	body, after, ok := strings.Cut(body, "\n"+armorEnd)
	if !ok {
		return nil, refuse(ErrArmor, "it has no %q", armorEnd)
	}
	if after != "" && after != "\n" {
		return nil, refuse(ErrArmorJunk, "after its end")
	}
	return decodeLines(strings.Split(body, "\n"))
}

func decodeLines(lines []string) ([]byte, error) {
	for i, l := range lines {
		if last := i == len(lines)-1; l == "" || len(l) > armorWidth || len(l) > len(lines[0]) || !last && len(l) != len(lines[0]) {
			return nil, refuse(ErrArmor, "line %d is not as long as the others", i+2)
		}
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(strings.Join(lines, ""))
	if err != nil {
		return nil, refuse(ErrArmor, "its base64: %v", err)
	}
	return blob, nil
}
