// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

const issuer = "hub@example.com"

// hub signs sets with the real ssh-keygen.
type hub struct {
	t       *testing.T
	dir     string
	allowed string
	revoked string
	broken  error
}

func newHub(t *testing.T) *hub {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	h := &hub{t: t, dir: t.TempDir()}
	for _, who := range []string{issuer, "alice@example.com", "mallory@example.com"} {
		h.keygen(nil, "-q", "-t", "ed25519", "-N", "", "-f", h.key(who))
		pub, err := os.ReadFile(h.key(who) + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(who, "mallory") {
			h.allowed += who + " namespaces=\"felhom-desired-v1\" " + string(pub)
		}
	}
	return h
}

func (h *hub) key(who string) string { return filepath.Join(h.dir, who) }

func (h *hub) keygen(in []byte, args ...string) []byte {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "ssh-keygen", args...)
	cmd.Stdin = strings.NewReader(string(in))
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("ssh-keygen %q: %v", args, err)
	}
	return out
}

func (h *hub) revoke(who string) {
	pub, err := os.ReadFile(h.key(who) + ".pub")
	if err != nil {
		h.t.Fatal(err)
	}
	h.revoked += string(pub)
}

// keys is who may sign, as the agent reads it.
func (h *hub) keys() (*gate.Signers, *gate.Revoked, error) {
	if h.broken != nil {
		return nil, nil, h.broken
	}
	s, err := gate.ParseSigners("allowed_signers", []byte(h.allowed), time.UTC)
	if err != nil {
		return nil, nil, err
	}
	r, err := gate.ParseRevoked("revoked_keys", []byte(h.revoked))
	return s, r, err
}

// farOff lies behind the time in which the bubbles run, 2000-01-01.
var farOff = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)

// signed is a set of one document, or of none, with an index.
type signed struct {
	doc     string
	serial  uint64
	host    string
	issuer  string
	end     time.Time
	by      []string
	ns      string
	tamper  func(*plugin.Snapshot)
	nothing bool
}

func (h *hub) sign(s signed) plugin.Snapshot {
	h.t.Helper()
	or := func(a, b string) string {
		if a == "" {
			return b
		}
		return a
	}
	if s.end.IsZero() {
		s.end = farOff
	}
	if s.by == nil {
		s.by = []string{issuer}
	}
	var files []gate.File
	snap := plugin.Snapshot{Revision: fmt.Sprint(s.serial, s.doc)}
	if !s.nothing {
		files = []gate.File{{Name: "guests.toml", Data: []byte(s.doc)}}
		snap.Files = []plugin.File{{Name: "guests.toml", Data: []byte(s.doc)}}
	}
	text, err := gate.NewIndex(or(s.issuer, issuer), or(s.host, "pve1"), s.serial, s.end, files).Text()
	if err != nil {
		h.t.Fatal(err)
	}
	index := plugin.File{Name: plugin.IndexName, Data: text}
	for _, who := range s.by {
		index.Signatures = append(index.Signatures, h.keygen(text, "-Y", "sign", "-q", "-n", or(s.ns, gate.DesiredNamespace), "-f", h.key(who)))
	}
	snap.Files = append(snap.Files, index)
	if s.tamper != nil {
		s.tamper(&snap)
	}
	return snap
}

func signedSettings(mode Mode) Settings {
	s := settings(mode)
	s.Signed = map[string]SignedRule{"dir": {Issuer: issuer, Threshold: 1}}
	return s
}

// startSigned starts an engine that believes h alone.
func (r *rig) startSigned(h *hub) {
	r.t.Helper()
	r.keys, r.rules = h.keys, signedSettings(Enforce).Signed
	r.start(Enforce)
}

func (r *rig) give(s plugin.Snapshot) error {
	return r.eng.SetDesired(r.t.Context(), "dir", s)
}

func (r *rig) mustGive(s plugin.Snapshot) {
	r.t.Helper()
	if err := r.give(s); err != nil {
		r.t.Fatal(err)
	}
}

func cores(n int) string {
	return fmt.Sprintf("[guest.101]\nkind = \"lxc\"\nrun = \"running\"\ncores = %d\n", n)
}

// P1: each revision that is not believed leaves the last good one in force.
func TestSignedSets(t *testing.T) {
	h := newHub(t)
	edit := func(f func(*plugin.Snapshot)) signed { return signed{doc: cores(8), serial: 6, tamper: f} }
	for name, c := range map[string]struct {
		next  signed
		spoil func(*hub)
		rule  SignedRule
		want  error // nil: any of the engine's own
		good  bool
	}{
		"the next one":            {next: signed{doc: cores(8), serial: 6}, good: true},
		"issuer and another sign": {next: signed{doc: cores(8), serial: 6, by: []string{issuer, "alice@example.com"}}, rule: SignedRule{issuer, 2}, good: true},
		"manage nothing":          {next: signed{serial: 6, nothing: true}, good: true},
		"empty by accident":       {next: edit(func(s *plugin.Snapshot) { s.Files = nil })},
		"not signed":              {next: edit(func(s *plugin.Snapshot) { s.Files[1].Signatures = nil })},
		"no index":                {next: edit(func(s *plugin.Snapshot) { s.Files = s.Files[:1] })},
		"source not readable":     {next: edit(func(s *plugin.Snapshot) { s.Err = "no such file" })},
		"a stranger signed":       {next: signed{doc: cores(8), serial: 6, by: []string{"mallory@example.com"}}, want: gate.ErrWhoSigned},
		"another signed":          {next: signed{doc: cores(8), serial: 6, by: []string{"alice@example.com"}}, want: gate.ErrIndexIssuer},
		"one of two signed":       {next: signed{doc: cores(8), serial: 6}, rule: SignedRule{issuer, 2}, want: gate.ErrThreshold},
		"for another purpose":     {next: signed{doc: cores(8), serial: 6, ns: "git"}, want: gate.ErrNamespace},
		"another host's":          {next: signed{doc: cores(8), serial: 6, host: "pve2"}, want: gate.ErrIndexHost},
		"expired":                 {next: signed{doc: cores(8), serial: 6, end: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)}, want: gate.ErrIndexExpired},
		"rolled back":             {next: signed{doc: cores(8), serial: 4}, want: gate.ErrIndexOld},
		"the serial again":        {next: signed{doc: cores(8), serial: 5}, want: gate.ErrIndexTwice},
		"file altered":            {next: edit(func(s *plugin.Snapshot) { s.Files[0].Data = []byte(cores(9)) }), want: gate.ErrFileDiffers},
		"file added":              {next: edit(func(s *plugin.Snapshot) { s.Files = append(s.Files, plugin.File{Name: "b.toml"}) }), want: gate.ErrFileUnlisted},
		"file missing":            {next: edit(func(s *plugin.Snapshot) { s.Files = s.Files[1:] }), want: gate.ErrFileMissing},
		"two indexes":             {next: edit(func(s *plugin.Snapshot) { s.Files = append(s.Files, s.Files[1]) }), want: gate.ErrFileUnlisted},
		"index altered": {next: edit(func(s *plugin.Snapshot) {
			s.Files[1].Data = []byte(strings.Replace(string(s.Files[1].Data), "serial: 6", "serial: 7", 1))
		}), want: gate.ErrBadSignature},
		"a document with a slip": {next: signed{doc: "[guest.101]\nkind = \"lxc\"\ncorse = 8\n", serial: 6}},
		"key revoked":            {next: signed{doc: cores(8), serial: 6}, spoil: func(h *hub) { h.revoke(issuer) }, want: gate.ErrRevoked},
		"nobody knows who may":   {next: signed{doc: cores(8), serial: 6}, spoil: func(h *hub) { h.broken = errors.New("revoked_keys: no such file") }},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			first, next := h.sign(signed{doc: cores(4), serial: 5}), h.sign(c.next)
			bubble(t, func(r *rig) {
				r.put(101, guest.Running, guest.Config{"cores": "2"})
				r.startSigned(&h)
				defer r.stop()
				r.mustGive(first)
				r.mustGive(first) // the same again is no news
				after(time.Minute)
				r.wantApplied("101 set_config")
				if c.spoil != nil {
					c.spoil(&h)
				}
				if c.rule != (SignedRule{}) {
					r.eng.mu.Lock()
					r.eng.set.Signed = map[string]SignedRule{"dir": c.rule}
					r.eng.mu.Unlock()
				}
				err := r.give(next)
				if next.Err != "" {
					err = errors.New(next.Err) // it has no verdict
				}
				if c.good != (err == nil) || !errors.Is(err, c.want) && c.want != nil {
					t.Fatalf("verdict %v, want %v", err, c.want)
				}
				p := r.eng.Status().Providers[0]
				if c.good != (p.Err == "") || c.good != (p.Serial == 6) {
					t.Errorf("status %+v", p)
				}
				r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
				after(10 * time.Minute)
				want := map[bool]string{false: "4", true: "8"}[c.good]
				if c.next.nothing {
					want = "1"
				}
				if got := r.cores(); got != want {
					t.Errorf("cores = %s, want %s", got, want)
				}
			})
		})
	}
}

func (r *rig) cores() string {
	var got string
	r.world.Change(101, func(g *plugintest.Guest) { got = g.Config["cores"] })
	return got
}

// What was accepted counts after a restart too: the cache is held against the
// journal and against the keys, and the serial does not go back.
func TestSignedSetsAfterARestart(t *testing.T) {
	h := newHub(t)
	first := h.sign(signed{doc: cores(4), serial: 5, end: time.Date(2000, 1, 2, 0, 0, 0, 0, time.UTC)})
	reissued := h.sign(signed{doc: cores(4), serial: 6})
	old := h.sign(signed{doc: cores(4), serial: 4})
	for name, c := range map[string]struct {
		give     []plugin.Snapshot
		between  func(h *hub)
		cores    string
		inForce  bool
		expected string // in the provider's error
	}{
		"as it was":        {between: func(*hub) {}, cores: "4", inForce: true},
		"document swapped": {between: func(*hub) { cache["dir"].Files[0].Data[len(cores(4))-2] = '9' }, expected: "not the one"},
		"older index":      {between: func(*hub) { cache["dir"] = old }, expected: string(gate.ErrIndexOld.Error())},
		"newer index":      {between: func(*hub) { cache["dir"] = reissued }, expected: "not the ones that were accepted"},
		"key revoked":      {between: func(h *hub) { h.revoke(issuer) }, expected: "revoked"},
		"expired":          {between: func(*hub) { after(48 * time.Hour) }, cores: "1", inForce: true},
		"reissued":         {give: []plugin.Snapshot{reissued}, between: func(*hub) { after(48 * time.Hour) }, cores: "4", inForce: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			bubble(t, func(r *rig) {
				r.put(101, guest.Running, guest.Config{"cores": "4"})
				r.startSigned(&h)
				s := first
				s.Files = append([]plugin.File(nil), first.Files...)
				s.Files[0].Data = []byte(cores(4))
				r.mustGive(s)
				for _, s := range c.give {
					r.mustGive(s)
				}
				after(time.Minute)
				r.stop()
				r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
				c.between(&h)
				r.startSigned(&h)
				defer r.stop()
				after(10 * time.Minute)
				want := c.cores
				if want == "" {
					want = "1"
				}
				if got := r.cores(); got != want {
					t.Errorf("cores = %s, want %s", got, want)
				}
				st := r.eng.Status()
				if (len(st.Guests) > 0) != c.inForce || !strings.Contains(st.Providers[0].Err, c.expected) {
					t.Errorf("%d guests, provider %+v, want an error with %q", len(st.Guests), st.Providers[0], c.expected)
				}
				if err := r.give(old); !errors.Is(err, gate.ErrIndexOld) && name != "key revoked" {
					t.Errorf("an older one after a restart: %v", err)
				}
			})
		})
	}
}

// A reload believes by the rules and keys of that moment; what is no longer
// believed is not managed, what is believed again is.
func TestReloadOfWhoMaySign(t *testing.T) {
	h := newHub(t)
	first := h.sign(signed{doc: cores(4), serial: 5})
	bubble(t, func(r *rig) {
		h.t = t
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.keys = h.keys
		r.start(Enforce)
		defer r.stop()
		step := func(what string, s Settings, guests int) {
			t.Helper()
			r.must(r.eng.Reload(s))
			after(time.Minute)
			if st := r.eng.Status(); len(st.Guests) != guests {
				t.Errorf("%s: %d guests are managed, want %d: %+v", what, len(st.Guests), guests, st.Providers)
			}
		}
		r.mustDesire(cores(4))
		step("no signature wanted", settings(Enforce), 1)
		step("signature wanted of an unsigned set", signedSettings(Enforce), 0)
		r.mustGive(first)
		step("signed", signedSettings(Enforce), 1)
		h.revoke(issuer)
		step("revoked", signedSettings(Enforce), 0)
		h.revoked = ""
		step("not revoked", signedSettings(Enforce), 1)
		other := signedSettings(Enforce)
		other.Signed["dir"] = SignedRule{Issuer: "alice@example.com", Threshold: 1}
		step("another issuer", other, 0)
		step("no signature wanted", settings(Enforce), 1)
		r.mustDesire(cores(4)) // unsigned in between
		step("signed wanted", signedSettings(Enforce), 0)
		if err := r.give(h.sign(signed{doc: cores(2), serial: 4})); !errors.Is(err, gate.ErrIndexOld) {
			t.Errorf("rolled back by way of an unsigned revision: %v", err)
		}
		r.wantApplied()
	})
}

// What a provider gives while the rule is being changed is judged by the new
// rule.
func TestRuleThatChangesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clear(cache)
		r := newRig(t)
		r.start(Enforce)
		defer r.stop()
		set, err := r.eng.parse("dir", SignedRule{}, plugin.Snapshot{Files: []plugin.File{{Name: "a.toml", Data: []byte(cores(1))}}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.must(r.eng.Reload(signedSettings(Enforce)))
		if err := r.eng.accept(set, false); !errors.Is(err, errOtherRule) {
			t.Errorf("accepted: %v", err)
		}
	})
}

// A restart does not begin the maximum age anew, and what the source gave again
// meanwhile counts.
func TestMaximumAgeAcrossARestart(t *testing.T) {
	bubble(t, func(r *rig) {
		r.put(101, guest.Running, guest.Config{"cores": "4"})
		r.change = func(s *Settings) { s.MaxAge = map[string]time.Duration{"dir": 24 * time.Hour} }
		r.start(Enforce)
		r.mustDesire(cores(4))
		after(12 * time.Hour)
		r.mustDesire(cores(4)) // nothing new, but the source is there
		r.stop()
		drift := func() { r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" }) }
		after(18 * time.Hour)
		r.start(Enforce)
		after(5 * time.Minute)
		drift()
		after(15 * time.Minute)
		r.wantApplied("101 set_config")
		r.stop()
		after(6 * time.Hour)
		r.start(Enforce)
		defer r.stop()
		drift()
		after(time.Hour)
		r.wantApplied("101 set_config")
	})
}

// Of the ends that the index and the documents state, the earlier one holds.
func TestEarlierEndHolds(t *testing.T) {
	h := newHub(t)
	day := func(n int) time.Time { return time.Date(2000, 1, n, 0, 0, 0, 0, time.UTC) }
	for name, ends := range map[string]struct{ doc, index time.Time }{
		"the index's":   {day(9), day(2)},
		"the documents": {day(2), day(9)},
	} {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			set := h.sign(signed{doc: "not_after = " + ends.doc.Format(time.RFC3339) + "\n" + cores(4), serial: 5, end: ends.index})
			bubble(t, func(r *rig) {
				r.put(101, guest.Running, guest.Config{"cores": "4"})
				r.startSigned(&h)
				defer r.stop()
				r.mustGive(set)
				after(12 * time.Hour)
				r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
				after(11 * time.Hour)
				r.wantApplied("101 set_config")
				after(2 * time.Hour)
				r.world.Change(101, func(g *plugintest.Guest) { g.Config["cores"] = "1" })
				after(12 * time.Hour)
				r.wantApplied("101 set_config")
			})
		})
	}
}
