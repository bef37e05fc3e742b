// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const hub = "hub@example.com"

func indexFiles() []File {
	return []File{{"web.toml", []byte("a = 1\n")}, {"sites/db.toml", []byte("b = 2\n")}}
}

const wantIndex = `felhom desired index v1
issuer: hub@example.com
host: pve1
serial: 42
not-after: 2026-12-29T15:30:00Z
file: 54d8b1ada15b70b68cfc22f1dbd8b58bb3fb5d9fbfbcbb0d3ab4d43ac9caec08 sites/db.toml
file: 54d8b1ada15b70b68cfc22f1dbd8b58bb3fb5d9fbfbcbb0d3ab4d43ac9caec08 web.toml
`

func testIndex(files ...File) *Index {
	return NewIndex(hub, "pve1", 42, testNow.Add(30*24*time.Hour), files)
}

func TestIndexText(t *testing.T) {
	got, err := testIndex(indexFiles()...).Text()
	if err != nil {
		t.Fatal(err)
	}
	const zero = "54d8b1ada15b70b68cfc22f1dbd8b58bb3fb5d9fbfbcbb0d3ab4d43ac9caec08"
	want := strings.Replace(wantIndex, zero, Hash([]byte("b = 2\n")), 1)
	want = strings.Replace(want, zero, Hash([]byte("a = 1\n")), 1)
	if d := cmp.Diff(string(got), want); d != "" {
		t.Errorf("text (-got +want):\n%s", d)
	}
	nothing, err := testIndex().Text()
	if err != nil || !strings.HasSuffix(string(nothing), "Z\nmanage: nothing\n") {
		t.Errorf("index of nothing: %q, %v", nothing, err)
	}
	for _, text := range [][]byte{got, nothing} {
		if x, err := ParseIndex(text); err != nil || string(x.print()) != string(text) {
			t.Errorf("%q does not read back: %v", text, err)
		}
	}
}

func TestTextsThatAreNotIndexes(t *testing.T) {
	line := "file: " + strings.Repeat("54", 32) + " "
	for name, c := range map[string]struct {
		old, new string
		want     Reason
	}{
		"of another form":        {indexHeader, requestHeader, ErrTextHeader},
		"serial with zero":       {"serial: 42", "serial: 042", ErrTextValue},
		"negative serial":        {"serial: 42", "serial: -1", ErrTextValue},
		"serial beyond 64 bits":  {"serial: 42", "serial: 18446744073709551616", ErrTextValue},
		"no not-after":           {"not-after: 2026-12-29T15:30:00Z\n", "", ErrTextMissing},
		"a file twice":           {"sites/db.toml", "web.toml", ErrFileTwice},
		"path upwards":           {"sites/db.toml", "../db.toml", ErrTextValue},
		"absolute path":          {"sites/db.toml", "/db.toml", ErrTextValue},
		"name with a blank":      {"sites/db.toml", "sites db.toml", ErrTextValue},
		"no name":                {" sites/db.toml", "", ErrTextValue},
		"short hash":             {"54d8", "54", ErrTextValue},
		"manage something":       {line[:0] + "file: ", "manage: all\nfile: ", ErrTextValue},
		"manage nothing and web": {"file: ", "manage: nothing\nfile: ", ErrIndexNothing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseIndex([]byte(strings.Replace(wantIndex, c.old, c.new, 1)))
			wantReason(t, err, c.want)
		})
	}
	head, _, _ := strings.Cut(wantIndex, "file: ")
	_, err := ParseIndex([]byte(head))
	wantReason(t, err, ErrIndexEmpty)
}

// indexCase is a signed revision; each row changes one thing of a good one.
type indexCase struct {
	index   *Index
	files   []File
	signer  *testKey
	ns      string
	who     string
	policy  IndexPolicy
	now     time.Time
	signers string
	after   func([]byte) []byte
}

func TestVerifyIndex(t *testing.T) {
	key, other := newEd25519(t), newEd25519(t)
	good := func() *indexCase {
		return &indexCase{
			index: testIndex(indexFiles()...), files: indexFiles(), signer: key, ns: DesiredNamespace, now: testNow,
			policy:  IndexPolicy{Issuer: hub, Host: "pve1", Rule: Rule{Threshold: 1}, LastSerial: 41, LastHash: strings.Repeat("00", 32)},
			signers: hub + ",backup-hub namespaces=\"felhom-desired-v1\" " + key.line() + "\nbob@example.com " + other.line() + "\n",
		}
	}
	for name, c := range map[string]struct {
		change func(*indexCase)
		want   Reason
	}{
		"good":                     {func(*indexCase) {}, ""},
		"signer named":             {func(c *indexCase) { c.who = hub }, ""},
		"files in another order":   {func(c *indexCase) { slices.Reverse(c.files) }, ""},
		"the first ever":           {func(c *indexCase) { c.policy.LastHash, c.policy.LastSerial = "", 0 }, ""},
		"the same again":           {func(c *indexCase) { c.policy.LastSerial, c.policy.LastHash = 42, hashOf(t, c.index) }, ""},
		"manage nothing":           {func(c *indexCase) { c.index, c.files = testIndex(), nil }, ""},
		"nothing, but a file":      {func(c *indexCase) { c.index = testIndex() }, ErrFileUnlisted},
		"file not in the index":    {func(c *indexCase) { c.files = append(c.files, File{"new.toml", nil}) }, ErrFileUnlisted},
		"file missing":             {func(c *indexCase) { c.files = c.files[:1] }, ErrFileMissing},
		"no files at all":          {func(c *indexCase) { c.files = nil }, ErrFileMissing},
		"file altered":             {func(c *indexCase) { c.files[0].Data = append(c.files[0].Data, '\n') }, ErrFileDiffers},
		"files swapped":            {func(c *indexCase) { c.files[0].Data, c.files[1].Data = c.files[1].Data, c.files[0].Data }, ErrFileDiffers},
		"file twice":               {func(c *indexCase) { c.files = append(c.files, c.files[0]) }, ErrFileTwice},
		"serial gone back":         {func(c *indexCase) { c.policy.LastSerial = 43 }, ErrIndexOld},
		"serial used again":        {func(c *indexCase) { c.policy.LastSerial = 42 }, ErrIndexTwice},
		"expired one second ago":   {func(c *indexCase) { c.now = c.index.NotAfter.Add(time.Second) }, ErrIndexExpired},
		"another host's":           {func(c *indexCase) { c.index.Host = "pve2" }, ErrIndexHost},
		"another issuer's":         {func(c *indexCase) { c.index.Issuer = "backup-hub" }, ErrIndexIssuer},
		"not signed by its issuer": {func(c *indexCase) { c.signer = other }, ErrIndexIssuer},
		"issuer in another name":   {func(c *indexCase) { c.who = "backup-hub" }, ErrIndexIssuer},
		"approval namespace":       {func(c *indexCase) { c.ns = ApprovalNamespace }, ErrNamespace},
		"key for other purposes":   {func(c *indexCase) { c.signers = strings.Replace(c.signers, "felhom-desired-v1", "git", 1) }, ErrSignerNamespace},
		"two signatures wanted":    {func(c *indexCase) { c.policy.Rule.Threshold = 2 }, ErrThreshold},
		"no rule":                  {func(c *indexCase) { c.policy.Rule.Threshold = 0 }, ErrPolicy},
		"altered":                  {func(c *indexCase) { c.after = replace("serial: 42", "serial: 43") }, ErrBadSignature},
		"CRLF":                     {func(c *indexCase) { c.after = replace("\n", "\r\n") }, ErrTextCRLF},
	} {
		t.Run(name, func(t *testing.T) {
			x := good()
			c.change(x)
			text := x.index.print()
			signed := []Signed{{x.who, x.signer.sshsig(text, x.ns)}}
			if x.after != nil {
				text = x.after(text)
			}
			got, err := VerifyIndex(text, signed, x.files, x.policy, x.now, mustSigners(t, x.signers), nil)
			wantReason(t, err, c.want)
			if (got == nil) != (err != nil) {
				t.Errorf("index %v with error %v", got, err)
			}
		})
	}
	_, err := VerifyIndex(testIndex().print(), nil, nil, good().policy, testNow, mustSigners(t, good().signers), nil)
	wantReason(t, err, ErrUnsigned)
}

func hashOf(t *testing.T, x *Index) string {
	t.Helper()
	text, err := x.Text()
	if err != nil {
		t.Fatal(err)
	}
	return Hash(text)
}
