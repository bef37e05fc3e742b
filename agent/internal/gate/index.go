// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

const indexHeader = "felhom desired index v1"

// Index is the signed list of the files of one revision of desired state.
type Index struct {
	Issuer   string // a principal of allowed_signers
	Host     string
	Serial   uint64
	NotAfter time.Time // whole seconds
	// Nothing says on purpose that there is nothing to manage; then there are
	// no files. An index without files that does not say so is refused.
	Nothing bool
	Files   []IndexFile
}

// IndexFile is a file's name and SHA-256 (64 hexadecimal digits).
type IndexFile struct{ Name, Hash string }

// File is a file as a provider carried it.
type File struct {
	Name string
	Data []byte
}

// NewIndex lists files, by name. Without files it says "manage: nothing".
func NewIndex(issuer, host string, serial uint64, notAfter time.Time, files []File) *Index {
	x := &Index{Issuer: issuer, Host: host, Serial: serial, NotAfter: notAfter, Nothing: len(files) == 0}
	for _, f := range files {
		x.Files = append(x.Files, IndexFile{Name: f.Name, Hash: Hash(f.Data)})
	}
	slices.SortFunc(x.Files, func(a, b IndexFile) int { return cmp.Compare(a.Name, b.Name) })
	return x
}

var indexFields = []field{
	{key: "issuer"},
	{key: "host"},
	{key: "serial"},
	{key: "not-after"},
	{key: "manage", optional: true},
	{key: "file", many: true, optional: true},
}

// Text is the index as it is signed, with namespace felhom-desired-v1.
func (x *Index) Text() ([]byte, error) {
	text := x.print()
	if _, err := ParseIndex(text); err != nil {
		return nil, err
	}
	if !x.NotAfter.Equal(x.NotAfter.Truncate(time.Second)) {
		return nil, refuse(ErrTextValue, "not-after is not a whole second")
	}
	return text, nil
}

func (x *Index) print() []byte {
	p := newPrinter(indexHeader)
	p.add("issuer", x.Issuer)
	p.add("host", x.Host)
	p.add("serial", fmt.Sprint(x.Serial))
	p.addTime("not-after", x.NotAfter)
	if x.Nothing {
		p.add("manage", "nothing")
	}
	for _, f := range x.Files {
		p.add("file", f.Hash+" "+f.Name)
	}
	return []byte(p.String())
}

// ParseIndex reads the exact form that Text writes.
func ParseIndex(text []byte) (*Index, error) {
	f, err := readForm(text, maxIndex, indexHeader, indexFields)
	if err != nil {
		return nil, err
	}
	x := &Index{Issuer: f.token("issuer"), Host: f.token("host"), Serial: f.number("serial", f.one("serial")), NotAfter: f.time("not-after")}
	if manage := f.one("manage"); manage != "" {
		if x.Nothing = manage == "nothing"; !x.Nothing {
			f.bad("manage", "%q is not \"nothing\"", manage)
		}
	}
	for _, v := range f.all("file") {
		hash, name, _ := strings.Cut(v, " ")
		if !isFileName(name) {
			f.bad("file", "%q is not a file name", name)
		}
		x.Files = append(x.Files, IndexFile{Name: name, Hash: f.hex("file", hash, 64)})
	}
	if f.err != nil {
		return nil, f.err
	}
	if !bytes.Equal(x.print(), text) {
		return nil, refuse(ErrTextValue, "it does not print back as it was")
	}
	if err := x.checkFiles(); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *Index) checkFiles() error {
	switch {
	case !x.Nothing && len(x.Files) == 0:
		return refuse(ErrIndexEmpty, "")
	case x.Nothing && len(x.Files) > 0:
		return refuse(ErrIndexNothing, "%d files", len(x.Files))
	}
	seen := map[string]bool{}
	for _, f := range x.Files {
		if seen[f.Name] {
			return refuse(ErrFileTwice, "%q in the index", f.Name)
		}
		seen[f.Name] = true
	}
	return nil
}

// isFileName reports whether a name is a relative path without surprises.
func isFileName(name string) bool {
	return isToken(name) && !slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
		return part == "" || part == "." || part == ".."
	})
}

// IndexPolicy says which index a provider's revision needs.
type IndexPolicy struct {
	Issuer string // the only one accepted
	Host   string // this host
	Rule   Rule   // FourEyes does not apply
	// LastSerial and LastHash are of the last index accepted from the issuer;
	// LastHash is empty if there was none.
	LastSerial uint64
	LastHash   string
}

// VerifyIndex checks that text is an index for this host, signed by its
// issuer (and by as many more as the rule wants), not older than the last one
// and in time, and that files are exactly what it lists. The same index again
// is accepted. A refused revision is refused whole, and never replaces a good
// one. A signature without a principal counts as the issuer's if the key may
// sign for the issuer.
func VerifyIndex(text []byte, signatures []Signed, files []File, policy IndexPolicy, now time.Time, signers *Signers, revoked *Revoked) (*Index, error) {
	x, err := ParseIndex(text)
	if err != nil {
		return nil, err
	}
	if err := policy.checkSignatures(text, signatures, now, signers, revoked); err != nil {
		return nil, err
	}
	if err := policy.check(x, text, now); err != nil {
		return nil, err
	}
	if err := x.checkSet(files); err != nil {
		return nil, err
	}
	return x, nil
}

func (p IndexPolicy) checkSignatures(text []byte, signatures []Signed, now time.Time, signers *Signers, revoked *Revoked) error {
	if err := p.Rule.validate("the index"); err != nil {
		return err
	}
	rule := p.Rule
	rule.FourEyes = false
	t := tally{text: text, namespace: DesiredNamespace, rule: rule, now: now, signers: signers, revoked: revoked}
	named := make([]Signed, len(signatures))
	for i, s := range signatures {
		named[i] = s
		if sig, err := ParseSignature(s.Armored); err == nil && s.Principal == "" && signers.mayBe(sig.key, p.Issuer) {
			named[i].Principal = p.Issuer
		}
	}
	who, err := t.count(named)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(who, func(s Signer) bool { return s.Principal == p.Issuer }) {
		return refuse(ErrIndexIssuer, "%q did not sign", p.Issuer)
	}
	return nil
}

func (p IndexPolicy) check(x *Index, text []byte, now time.Time) error {
	switch {
	case x.Issuer != p.Issuer:
		return refuse(ErrIndexIssuer, "%q, want %q", x.Issuer, p.Issuer)
	case x.Host != p.Host:
		return refuse(ErrIndexHost, "%q", x.Host)
	case now.After(x.NotAfter):
		return refuse(ErrIndexExpired, "not after %s", x.NotAfter.Format(timeForm))
	case p.LastHash == "":
		return nil
	case x.Serial < p.LastSerial:
		return refuse(ErrIndexOld, "serial %d, the last was %d", x.Serial, p.LastSerial)
	case x.Serial == p.LastSerial && Hash(text) != p.LastHash:
		return refuse(ErrIndexTwice, "serial %d", x.Serial)
	}
	return nil
}

// checkSet holds the files against the index, both ways.
func (x *Index) checkSet(files []File) error {
	left := map[string]string{}
	for _, f := range x.Files {
		left[f.Name] = f.Hash
	}
	seen := map[string]bool{}
	for _, f := range files {
		want, ok := left[f.Name]
		switch {
		case seen[f.Name]:
			return refuse(ErrFileTwice, "%q in the revision", f.Name)
		case !ok:
			return refuse(ErrFileUnlisted, "%q", f.Name)
		case Hash(f.Data) != want:
			return refuse(ErrFileDiffers, "%q", f.Name)
		}
		seen[f.Name] = true
		delete(left, f.Name)
	}
	for _, f := range x.Files {
		if !seen[f.Name] {
			return refuse(ErrFileMissing, "%q", f.Name)
		}
	}
	return nil
}
