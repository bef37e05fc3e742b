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

func testPermit() *Permit {
	return &Permit{
		ID: "ci-2026-11", Asker: "ci@example.com", Host: "pve1", Actions: []string{"rollback", "destroy"},
		Scopes: []Scope{{Tag: "ci"}, {First: 9000, Last: 9099}}, Count: 20,
		NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(24 * time.Hour),
	}
}

const wantPermit = `felhom standing permit v1
permit: ci-2026-11
asker: ci@example.com
host: pve1
action: rollback
action: destroy
scope: tag ci
scope: vmid 9000-9099
count: 20
not-before: 2026-11-29T14:30:00Z
not-after: 2026-11-30T15:30:00Z
`

func TestPermitText(t *testing.T) {
	got, err := testPermit().Text()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got), wantPermit); d != "" {
		t.Errorf("text (-got +want):\n%s", d)
	}
	back, err := ParsePermit(got)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(back, testPermit()); d != "" {
		t.Errorf("read back (-got +want):\n%s", d)
	}
}

func TestTextsThatAreNotPermits(t *testing.T) {
	for name, c := range map[string]struct {
		old, new string
		want     Reason
	}{
		"an approval request":   {permitHeader, requestHeader, ErrTextHeader},
		"deletion of backups":   {"rollback", "delete_backup", ErrPermitBackup},
		"pruning":               {"rollback", "prune", ErrPermitBackup},
		"pruning, in capitals":  {"rollback", "Prune_Backups", ErrPermitBackup},
		"any action":            {"rollback", "*", ErrTextValue},
		"an action twice":       {"rollback", "destroy", ErrTextValue},
		"no action":             {"action: rollback\naction: destroy\n", "", ErrTextMissing},
		"no scope":              {"scope: tag ci\nscope: vmid 9000-9099\n", "", ErrTextMissing},
		"scope of another kind": {"tag ci", "pool ci", ErrTextValue},
		"any tag":               {"tag ci", "tag *", ErrTextValue},
		"range backwards":       {"9000-9099", "9099-9000", ErrTextValue},
		"open range":            {"9000-9099", "9000-", ErrTextValue},
		"one VMID":              {"9000-9099", "9000", ErrTextValue},
		"VMID with zero":        {"9000-9099", "09000-9099", ErrTextValue},
		"no count":              {"count: 20\n", "", ErrTextMissing},
		"count of none":         {"count: 20", "count: 0", ErrTextValue},
		"count without end":     {"count: 20", "count: 100001", ErrTextValue},
		"count with a sign":     {"count: 20", "count: +20", ErrTextValue},
		"window without an end": {"not-after: 2026-11-30T15:30:00Z\n", "", ErrTextMissing},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParsePermit([]byte(strings.Replace(wantPermit, c.old, c.new, 1)))
			wantReason(t, err, c.want)
		})
	}
}

func TestVerifyPermit(t *testing.T) {
	key, other := newEd25519(t), newEd25519(t)
	signers := mustSigners(t, alice+" "+key.line()+"\nbob@example.com "+other.line()+"\n")
	rules := func(change func(*Policy)) Policy {
		p := DefaultPolicy()
		if change != nil {
			change(&p)
		}
		return p
	}
	for name, c := range map[string]struct {
		change func(*Permit)
		policy Policy
		now    time.Time
		want   Reason
	}{
		"good":                         {nil, rules(nil), testNow, ""},
		"before its window":            {nil, rules(nil), testNow.Add(-48 * time.Hour), ""},
		"after its window":             {nil, rules(nil), testNow.Add(25 * time.Hour), ErrExpired},
		"too long":                     {func(p *Permit) { p.NotAfter = p.NotAfter.Add(100 * 24 * time.Hour) }, rules(nil), testNow, ErrLongWindow},
		"the strictest action decides": {nil, rules(func(p *Policy) { p.Actions = map[string]Rule{"destroy": {Threshold: 2}} }), testNow, ErrThreshold},
		"an action without a rule":     {nil, rules(func(p *Policy) { p.Classes = nil; p.Actions = map[string]Rule{"destroy": {Threshold: 1}} }), testNow, ErrNoRule},
		"the asker signs": {
			func(p *Permit) { p.Asker = alice }, rules(func(p *Policy) {
				p.Classes = map[guest.Class]Rule{guest.Irreversible: {Threshold: 1, FourEyes: true}}
			}), testNow, ErrAsker,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPermit()
			if c.change != nil {
				c.change(p)
			}
			text, err := p.Text()
			if err != nil {
				t.Fatal(err)
			}
			g, err := VerifyPermit(text, []Signed{{alice, key.sshsig(text, ApprovalNamespace)}}, c.policy, c.now, signers, nil)
			wantReason(t, err, c.want)
			if err == nil && (g.Hash != Hash(text) || g.Signers[0].Principal != alice) {
				t.Errorf("grant %+v", g)
			}
		})
	}
}

func TestGrantCovers(t *testing.T) {
	id := func(v guest.VMID) guest.ID { return guest.ID{Kind: guest.LXC, VMID: v} }
	good := Use{
		Now: testNow, ClockSynchronised: true, Host: "pve1", Asker: "ci@example.com", Action: "rollback", Class: guest.Irreversible,
		Guest: id(105), Tags: []string{"web", "ci"}, Used: 19,
	}
	for name, c := range map[string]struct {
		change func(*Use)
		want   Reason
	}{
		"by tag":               {func(*Use) {}, ""},
		"by range":             {func(u *Use) { u.Tags, u.Guest = nil, id(9000) }, ""},
		"the range's last":     {func(u *Use) { u.Tags, u.Guest = nil, id(9099) }, ""},
		"beyond the range":     {func(u *Use) { u.Tags, u.Guest = nil, id(9100) }, ErrPermitScope},
		"no guest":             {func(u *Use) { u.Guest = guest.ID{} }, ErrPermitScope},
		"a tag like it":        {func(u *Use) { u.Tags = []string{"ci2"} }, ErrPermitScope},
		"count used up":        {func(u *Use) { u.Used = 20 }, ErrPermitSpent},
		"another action":       {func(u *Use) { u.Action = "restore" }, ErrPermitAction},
		"deletes a backup":     {func(u *Use) { u.DeletesBackup = true }, ErrPermitBackup},
		"class never":          {func(u *Use) { u.Class = guest.Never }, ErrNoRule},
		"class unknown":        {func(u *Use) { u.Class = "" }, ErrNoRule},
		"another host":         {func(u *Use) { u.Host = "pve2" }, ErrPermitHost},
		"another asker":        {func(u *Use) { u.Asker = "hub" }, ErrOtherAsker},
		"too early":            {func(u *Use) { u.Now = testNow.Add(-2 * time.Hour) }, ErrEarly},
		"too late":             {func(u *Use) { u.Now = testNow.Add(24*time.Hour + time.Second) }, ErrExpired},
		"clock unsynchronised": {func(u *Use) { u.ClockSynchronised = false }, ErrClock},
		"withdrawn":            {func(u *Use) { u.Withdrawn = true }, ErrPermitRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			u := good
			c.change(&u)
			wantReason(t, (&Grant{Permit: *testPermit()}).Covers(u), c.want)
		})
	}
}
