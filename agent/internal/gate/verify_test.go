// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"math/bits"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// TestLargest compares with trying every subset.
func TestLargest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		n := 1 + r.IntN(9)
		apart := make([]uint, n)
		for i := range n {
			for j := range i {
				if r.IntN(2) == 0 {
					apart[i] |= 1 << j
					apart[j] |= 1 << i
				}
			}
		}
		want := 0
		for set := range uint(1) << n {
			good := true
			for i := range n {
				good = good && (set>>i&1 == 0 || set&^(1<<i)&^apart[i] == 0)
			}
			if good {
				want = max(want, bits.OnesCount(set))
			}
		}
		if got := bits.OnesCount(largest(apart, 0, 1<<n-1)); got != want {
			t.Errorf("seed %d: %d, want %d", seed, got, want)
		}
	}
}

// TestSharedKeyDoesNotHideTwoPeople: of three signatures the two that are
// apart count, though the first clashes with both.
func TestSharedKeyDoesNotHideTwoPeople(t *testing.T) {
	t.Parallel()
	shared, a, b := newEd25519(t), newEd25519(t), newEd25519(t)
	signers := mustSigners(t, alice+","+bob+" "+shared.line()+"\n"+alice+" "+a.line()+"\n"+bob+" "+b.line()+"\n")
	text := requestText(t)
	sign := func(k *testKey, who string) Signed { return Signed{who, k.sshsig(text, ApprovalNamespace)} }
	policy := Policy{Classes: map[guest.Class]Rule{guest.Irreversible: {Threshold: 2}}}
	got, err := Verify(text, []Signed{sign(shared, alice), sign(a, alice), sign(b, bob)}, policy, testNow, signers, nil)
	if err != nil || len(got.Signers) != 2 || got.Signers[0].Fingerprint == got.Signers[1].Fingerprint {
		t.Errorf("approval %+v, %v", got, err)
	}
	_, err = Verify(text, []Signed{sign(shared, alice), sign(b, bob)}, policy, testNow, signers, nil)
	wantReason(t, err, ErrSamePerson)
}

func TestRules(t *testing.T) {
	t.Parallel()
	p := Policy{
		Actions: map[string]Rule{"rollback": {Threshold: 3}},
		Classes: map[guest.Class]Rule{guest.Irreversible: {Threshold: 2}, guest.Never: {Threshold: 1}, guest.Unclassed: {Threshold: 1}},
	}
	for _, c := range []struct {
		action string
		class  guest.Class
		want   int
		reason Reason
	}{
		{"rollback", guest.Irreversible, 3, ""},
		{"destroy", guest.Irreversible, 2, ""},
		{"destroy", guest.Benign, 0, ErrNoRule},
		{"rollback", guest.Never, 0, ErrNoRule},
		{"destroy", guest.Unclassed, 0, ErrNoRule},
	} {
		r, err := p.rule(c.action, c.class)
		wantReason(t, err, c.reason)
		if r.Threshold != c.want {
			t.Errorf("%s of class %s: threshold %d, want %d", c.action, c.class, r.Threshold, c.want)
		}
	}
	for _, bad := range []Policy{
		{Skew: maxSkew + 1},
		{Skew: -1},
		{MaxWindow: -1},
		{MaxPermit: -1},
		{Classes: map[guest.Class]Rule{guest.Irreversible: {}}},
		{Actions: map[string]Rule{"x": {Threshold: maxSignatures + 1}}},
	} {
		wantReason(t, bad.Validate(), ErrPolicy)
	}
	wantReason(t, DefaultPolicy().Validate(), "")
	wantReason(t, Policy{}.Validate(), "")
}

// TestWindowEdges: the skew helps at the start and never at the end.
func TestWindowEdges(t *testing.T) {
	t.Parallel()
	p := Policy{Skew: time.Minute}
	from, to := testNow, testNow.Add(time.Hour)
	for _, c := range []struct {
		now  time.Time
		want Reason
	}{
		{from.Add(-time.Minute - 1), ErrEarly},
		{from.Add(-time.Minute), ""},
		{from, ""},
		{to, ""},
		{to.Add(1), ErrExpired},
	} {
		wantReason(t, p.checkWindow(from, to, time.Hour, c.now), c.want)
	}
	wantReason(t, p.checkWindow(from, to, time.Hour-1, from), ErrLongWindow)
	wantReason(t, p.checkWindow(from, from, time.Hour, from), ErrEmptyWindow)
}

func TestSecondPhase(t *testing.T) {
	t.Parallel()
	r := testRequest()
	good := Present{Now: r.DeleteNotBefore, ClockSynchronised: true, OpID: r.OpID, Host: r.Host, Guest: r.Guest, Incarnation: r.Incarnation}
	for name, c := range map[string]struct {
		request func(*Request)
		present func(*Present)
		want    Reason
	}{
		"good":                 {nil, nil, ""},
		"the last moment":      {nil, func(p *Present) { p.Now = r.DeleteNotAfter }, ""},
		"too early":            {nil, func(p *Present) { p.Now = p.Now.Add(-1) }, ErrEarly},
		"too late":             {nil, func(p *Present) { p.Now = r.DeleteNotAfter.Add(1) }, ErrExpired},
		"clock unsynchronised": {nil, func(p *Present) { p.ClockSynchronised = false }, ErrClock},
		"another guest":        {nil, func(p *Present) { p.Guest.VMID++ }, ErrOtherGuest},
		"replaced guest":       {nil, func(p *Present) { p.Incarnation = "inc-new" }, ErrOtherIncarnation},
		"another op":           {nil, func(p *Present) { p.OpID = "x" }, ErrOtherOp},
		"another host":         {nil, func(p *Present) { p.Host = "pve2" }, ErrOtherHost},
		"no second phase":      {func(r *Request) { r.DeleteNotBefore, r.DeleteNotAfter = time.Time{}, time.Time{} }, nil, ErrOtherAction},
	} {
		t.Run(name, func(t *testing.T) {
			req, p := testRequest(), good
			if c.request != nil {
				c.request(req)
			}
			if c.present != nil {
				c.present(&p)
			}
			wantReason(t, req.CheckDelete(p), c.want)
		})
	}
	early := testRequest()
	early.DeleteNotBefore = early.NotBefore.Add(-time.Hour)
	early.DeleteNotAfter = early.NotBefore.Add(time.Hour)
	wantReason(t, early.checkWindows(Policy{}, testNow), ErrEmptyWindow)
}
