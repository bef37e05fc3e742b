// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"strings"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/google/go-cmp/cmp"
)

func testRequest() *Request {
	return &Request{
		OpID: "019311aa22bb33cc44dd55", Asker: "dave@example.com", Action: "destroy", Class: guest.Irreversible, Host: "pve1",
		Guest: guest.ID{Kind: guest.LXC, VMID: 105}, Name: "web-prod", Incarnation: "inc-7f3a",
		PlanHash: strings.Repeat("ab", 32), Journal: Head{Seq: 4711, Hash: strings.Repeat("cd", 32)}, Nonce: strings.Repeat("0e", 16),
		NotBefore: testNow.Add(-30 * time.Minute), NotAfter: testNow.Add(30 * time.Minute),
		DeleteNotBefore: testNow.Add(24 * time.Hour), DeleteNotAfter: testNow.Add(36 * time.Hour),
		Effects: []string{"quarantine now, delete later", "delete local-lvm:vm-105-disk-0 8 GiB", "last backup: 2026-11-29T03:10:00Z, verified"},
	}
}

const wantText = `felhom approval request v1
op: 019311aa22bb33cc44dd55
asker: dave@example.com
action: destroy
class: irreversible
host: pve1
guest: lxc/105
name: web-prod
incarnation: inc-7f3a
plan: abababababababababababababababababababababababababababababababab
journal: 4711 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
nonce: 0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e
not-before: 2026-11-29T15:00:00Z
not-after: 2026-11-29T16:00:00Z
delete-not-before: 2026-11-30T15:30:00Z
delete-not-after: 2026-12-01T03:30:00Z
effect: quarantine now, delete later
effect: delete local-lvm:vm-105-disk-0 8 GiB
effect: last backup: 2026-11-29T03:10:00Z, verified
`

func TestRequestText(t *testing.T) {
	got, err := testRequest().Text()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), wantText); d != "" {
		t.Errorf("text (-got +want):\n%s", d)
	}
	back, err := ParseRequest(got)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(back, testRequest()); d != "" {
		t.Errorf("read back (-got +want):\n%s", d)
	}
}

func TestRequestWithoutGuest(t *testing.T) {
	r := testRequest()
	r.Guest, r.Name, r.Incarnation, r.Action = guest.ID{}, "", "", "delete_content"
	r.DeleteNotBefore, r.DeleteNotAfter = time.Time{}, time.Time{}
	text, err := r.Text()
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(back, r); d != "" {
		t.Errorf("read back (-got +want):\n%s", d)
	}
}

func TestRequestsThatCannotBeSaid(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Request)
		want   Reason
	}{
		"newline in an effect":      {func(r *Request) { r.Effects[0] = "harmless\nhost: pve2" }, ErrTextRepeated},
		"escape sequence":           {func(r *Request) { r.Effects[0] = "harmless\x1b[2K" }, ErrTextChar},
		"right-to-left override":    {func(r *Request) { r.Name = "web\u202edorp" }, ErrTextChar},
		"letter that looks alike":   {func(r *Request) { r.Host = "pv\u0435" }, ErrTextChar},
		"no effect":                 {func(r *Request) { r.Effects = nil }, ErrTextMissing},
		"empty effect":              {func(r *Request) { r.Effects[1] = "" }, ErrTextLine},
		"effect with blank ahead":   {func(r *Request) { r.Effects[1] = " x" }, ErrTextLine},
		"too many effects":          {func(r *Request) { r.Effects = slicesRepeat("x", maxEffects+1) }, ErrTextValue},
		"effect too long":           {func(r *Request) { r.Effects[0] = strings.Repeat("x", maxLine) }, ErrTextLine},
		"text too long":             {func(r *Request) { r.Effects = slicesRepeat(strings.Repeat("x", 900), 100) }, ErrTextLong},
		"parts of a second":         {func(r *Request) { r.NotAfter = r.NotAfter.Add(time.Millisecond) }, ErrTextValue},
		"no window":                 {func(r *Request) { r.NotAfter = time.Time{} }, ErrTextMissing},
		"half a second phase":       {func(r *Request) { r.DeleteNotAfter = time.Time{} }, ErrTextValue},
		"short nonce":               {func(r *Request) { r.Nonce = r.Nonce[2:] }, ErrTextValue},
		"capitals in the hash":      {func(r *Request) { r.PlanHash = strings.ToUpper(r.PlanHash) }, ErrTextValue},
		"no incarnation":            {func(r *Request) { r.Incarnation = "" }, ErrTextValue},
		"incarnation, no guest":     {func(r *Request) { r.Guest = guest.ID{} }, ErrTextValue},
		"class never":               {func(r *Request) { r.Class = guest.Never }, ErrTextValue},
		"a name that means no one":  {func(r *Request) { r.Name = "-" }, ""}, // reads back as no name, which prints the same
		"blank in the host":         {func(r *Request) { r.Host = "pve1 pve2" }, ErrTextValue},
		"guest number out of range": {func(r *Request) { r.Guest.VMID = 7 }, ErrTextValue},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRequest()
			c.change(r)
			_, err := r.Text()
			wantReason(t, err, c.want)
		})
	}
}

func slicesRepeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestTextsThatAreNotRequests(t *testing.T) {
	sub := func(old, new string) string { return strings.Replace(wantText, old, new, 1) }
	for name, c := range map[string]struct {
		text string
		want Reason
	}{
		"nothing":                {"", ErrTextCut},
		"one newline":            {"\n", ErrTextHeader},
		"no newline at the end":  {strings.TrimSuffix(wantText, "\n"), ErrTextCut},
		"one newline more":       {wantText + "\n", ErrTextTrailing},
		"CRLF":                   {strings.ReplaceAll(wantText, "\n", "\r\n"), ErrTextCRLF},
		"one CR":                 {sub("pve1\n", "pve1\r\n"), ErrTextCRLF},
		"tab":                    {sub("host: ", "host:\t"), ErrTextChar},
		"NUL":                    {sub("web-prod", "web\x00prod"), ErrTextChar},
		"byte order mark":        {"\xef\xbb\xbf" + wantText, ErrTextChar},
		"version 2":              {sub("request v1", "request v2"), ErrTextHeader},
		"text before":            {"Please sign:\n" + wantText, ErrTextHeader},
		"empty line":             {sub("\nhost", "\n\nhost"), ErrTextLine},
		"two blanks":             {sub("host: ", "host:  "), ErrTextLine},
		"blank at a line's end":  {sub("pve1\n", "pve1 \n"), ErrTextLine},
		"no colon":               {sub("host: ", "host = "), ErrTextLine},
		"unknown line":           {sub("host: ", "force: yes\nhost: "), ErrTextUnknown},
		"key in capitals":        {sub("host: ", "Host: "), ErrTextUnknown},
		"host twice":             {sub("host: pve1\n", "host: pve1\nhost: pve2\n"), ErrTextRepeated},
		"nonce missing":          {sub("nonce: 0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e\n", ""), ErrTextMissing},
		"order":                  {sub("action: destroy\nclass: irreversible\n", "class: irreversible\naction: destroy\n"), ErrTextOrder},
		"time with an offset":    {sub("15:00:00Z", "15:00:00+00:00"), ErrTextValue},
		"impossible day":         {sub("2026-11-30T15", "2026-11-31T15"), ErrTextValue},
		"sequence with zero":     {sub("journal: 4711", "journal: 04711"), ErrTextValue},
		"journal without a hash": {sub("journal: 4711 ", "journal: 4711x"), ErrTextValue},
		"guest with zero":        {sub("lxc/105", "lxc/0105"), ErrTextValue},
		"guest of another kind":  {sub("lxc/105", "vz/105"), ErrTextValue},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseRequest([]byte(c.text))
			wantReason(t, err, c.want)
		})
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"web-prod": "web-prod", `a "b" c`: `a "b" c`, "x\ny": `x\ny`, "pv\u0435": `pv\u0435`, " x ": "x", "a\x1b[2K": `a\x1b[2K`,
	} {
		if got := Plain(in); got != want {
			t.Errorf("Plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNoncesDiffer(t *testing.T) {
	if a, b := NewNonce(), NewNonce(); a == b || !isHex(a, 32) {
		t.Errorf("nonces %q, %q", a, b)
	}
}

func TestEachReasonHasASentenceOfItsOwn(t *testing.T) {
	seen := map[string]Reason{}
	for r, s := range sentences {
		if seen[s] != "" {
			t.Errorf("%s and %s say the same", r, seen[s])
		}
		seen[s] = r
	}
	if got := Reason("x").Error(); got != "refused (x)" {
		t.Errorf("unknown reason says %q", got)
	}
}
