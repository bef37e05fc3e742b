// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package carry is what the plugins that fetch a set from elsewhere have in
// common: the form in which a set travels, its bounds, and when a snapshot is
// given to the core.
//
// It guarantees that equal revisions have equal files, and that what is out of
// bounds or not in its form is an error, never a set with less in it.
package carry

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// The bounds of a set. A snapshot stays well below what a message may hold.
const (
	MaxBody  = 12 << 20 // bytes of the encoded form
	maxFiles = 2000
	maxFile  = 1 << 20
	maxTotal = 8 << 20 // signatures included
	maxName  = 255
	maxSigs  = 16
	maxSig   = 64 << 10
)

// Set is the form in which a set travels: one JSON object.
type Set struct {
	Files []File `json:"files"`
}

// File is one file of a set. Data is base64 in JSON, a signature is its armor.
type File struct {
	Name       string   `json:"name"`
	Data       []byte   `json:"data"`
	Signatures []string `json:"signatures,omitempty"`
}

// Encode writes files in the form in which they travel.
func Encode(files []plugin.File) ([]byte, error) {
	s := Set{Files: []File{}}
	for _, f := range files {
		out := File{Name: f.Name, Data: f.Data}
		for _, sig := range f.Signatures {
			out.Signatures = append(out.Signatures, string(sig))
		}
		s.Files = append(s.Files, out)
	}
	return json.Marshal(s)
}

// Decode reads a set. An object without the list of files is an error: only an
// empty list says that there are none.
func Decode(b []byte) (plugin.Snapshot, error) {
	if len(b) > MaxBody {
		return plugin.Snapshot{}, fmt.Errorf("the set has %d bytes, more than %d", len(b), MaxBody)
	}
	var s Set
	if err := json.Unmarshal(b, &s); err != nil {
		return plugin.Snapshot{}, fmt.Errorf("the set is not in its form: %w", err)
	}
	if s.Files == nil {
		return plugin.Snapshot{}, errors.New("the set is not in its form: it has no list of files")
	}
	files := make([]plugin.File, 0, len(s.Files))
	for _, f := range s.Files {
		out := plugin.File{Name: f.Name, Data: f.Data}
		for _, sig := range f.Signatures {
			out.Signatures = append(out.Signatures, []byte(sig))
		}
		files = append(files, out)
	}
	if err := check(files); err != nil {
		return plugin.Snapshot{}, err
	}
	return plugin.Snapshot{Revision: Revision(files), Files: files}, nil
}

func check(files []plugin.File) error {
	if len(files) > maxFiles {
		return fmt.Errorf("the set has %d files, more than %d", len(files), maxFiles)
	}
	seen, total := map[string]bool{}, 0
	for _, f := range files {
		switch {
		case f.Name == "" || len(f.Name) > maxName || !utf8.ValidString(f.Name):
			return fmt.Errorf("%.64q is not the name of a file", f.Name)
		case seen[f.Name]:
			return fmt.Errorf("the set has %q twice", f.Name)
		case len(f.Data) > maxFile:
			return fmt.Errorf("%q has %d bytes, more than %d", f.Name, len(f.Data), maxFile)
		case len(f.Signatures) > maxSigs:
			return fmt.Errorf("%q has %d signatures, more than %d", f.Name, len(f.Signatures), maxSigs)
		}
		seen[f.Name] = true
		total += len(f.Data)
		for _, s := range f.Signatures {
			if total += len(s); len(s) > maxSig {
				return fmt.Errorf("a signature of %q has %d bytes, more than %d", f.Name, len(s), maxSig)
			}
		}
	}
	if total > maxTotal {
		return fmt.Errorf("the set holds %d bytes, more than %d", total, maxTotal)
	}
	return nil
}

// Revision is a hash of names, contents and signatures.
func Revision(files []plugin.File) string {
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for _, f := range files {
		put([]byte(f.Name))
		put(f.Data)
		put(binary.BigEndian.AppendUint64(nil, uint64(len(f.Signatures))))
		for _, s := range f.Signatures {
			put(s)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
