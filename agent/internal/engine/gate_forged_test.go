// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/gate/gatetest"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
)

// forging is one approval on its way to the engine, over a real journal and
// with signatures of the real ssh-keygen. Without a forger's hand it is alice's
// for a rollback of guest 105, and is carried out.
type forging struct {
	*rig
	p    *people
	rule gate.Rule
	kind plugin.ActionKind
	as   string // the asker's name among the signers
	good []string
	hw   *gatetest.SecurityKey

	o     op.Op // as it was asked for
	text  string
	sigs  []ledger.Signature
	after func() // ends what was wrong, before the right approval is handed in
}

// forgery is a row of the table. setUp is before the op is asked for and holds
// for the right approval too; forge changes one thing.
type forgery struct {
	name  string
	setUp func(f *forging)
	forge func(f *forging)
	want  string // the reason in the journal; "op: ..." = the op is given up with these words
}

// right is the approval that a row's policy wants for a request.
func (f *forging) right(text string) []ledger.Signature {
	if f.hw != nil {
		return []ledger.Signature{{Principal: alice, Armored: f.hw.Sign(text, gate.ApprovalNamespace, gatetest.Touched|gatetest.PIN)}}
	}
	return f.p.signed(text, f.good...)
}

func (f *forging) ask() op.Op {
	f.t.Helper()
	params := map[string]string{"name": "before"}
	if f.kind == plugin.Destroy {
		params = map[string]string{"without_backup": "1"}
	}
	got, err := f.eng.Ask(f.t.Context(), Order{Guest: 105, Action: f.kind, Params: params, By: "operator (uid 0)", As: f.as})
	if err != nil {
		f.t.Fatal(err)
	}
	return got.Ops[0]
}

func (f *forging) settings() Settings {
	set := settings(Enforce)
	f.change(&set)
	set.Gate.Policy.Classes = map[guest.Class]gate.Rule{guest.Irreversible: f.rule}
	return set
}

// begin puts everything in order up to the moment of handing in.
func (f *forging) begin(setUp func(*forging)) {
	f.t.Helper()
	gateRig(f.rig, f.p)
	f.rule, f.kind, f.good, f.after = gate.Rule{Threshold: 1}, plugin.Rollback, []string{alice}, func() {}
	if setUp != nil {
		setUp(f)
	}
	if err := f.eng.Reload(f.settings()); err != nil {
		f.t.Fatal(err)
	}
	after(time.Minute)
	f.o = f.ask()
	f.text = f.o.Request
	f.sigs = f.right(f.text)
}

// refusals are the refused approvals in the journal on disk.
func (f *forging) refusals() []ledger.Approval {
	f.t.Helper()
	var out []ledger.Approval
	err := journal.Read(fsys.OS{}, f.dir, 0, func(e journal.Entry, _ journal.Frame) bool {
		if r, err := ledger.Decode(e.Payload); err == nil && r.Type == ledger.TypeApproval && r.Approval.Refused != "" {
			out = append(out, *r.Approval)
		}
		return true
	})
	if err != nil {
		f.t.Error(err)
	}
	return out
}

// wantRefused holds the answer, the journal and the world against a row.
func (f *forging) wantRefused(err error, want string, had int) {
	f.t.Helper()
	after(time.Minute)
	if words, givenUp := strings.CutPrefix(want, "op: "); givenUp {
		if o := f.op(f.o.ID); o.State != op.Abandoned || !strings.Contains(o.Message, words) {
			f.t.Errorf("the op is %s: %q, want it given up: %q", o.State, o.Message, words)
		}
	} else {
		got := f.refusals()
		switch {
		case err == nil:
			f.t.Error("it was taken")
		case len(got) == 0 || got[len(got)-1].Reason != want || got[len(got)-1].Op != f.o.ID:
			f.t.Errorf("the journal says %+v (%v), want reason %q", got, err, want)
		case !strings.Contains(err.Error(), "("+want+")"):
			f.t.Errorf("the answer %q does not name the reason %q", err, want)
		}
	}
	if n := len(f.applied()); n != had {
		f.t.Errorf("sent: %q", f.applied())
	}
}

// wantRight hands in the right approval in the end: the same op if it still
// waits, or else a new one, is carried out once.
func (f *forging) wantRight(had int) {
	f.t.Helper()
	o := f.op(f.o.ID)
	if o.State != op.Awaiting {
		o = f.ask()
	}
	if _, err := f.eng.Approve(f.t.Context(), o.ID, o.Request, f.right(o.Request), "operator (uid 0)"); err != nil {
		f.t.Errorf("the right approval: %v", err)
	}
	after(3 * time.Hour)
	sent, last := f.applied(), map[plugin.ActionKind]string{plugin.Rollback: "105 rollback", plugin.Destroy: "105 destroy"}[f.kind]
	if len(sent) <= had || sent[len(sent)-1] != last || len(slices.DeleteFunc(sent[had:], func(s string) bool { return s != last })) != 1 {
		f.t.Errorf("after the right approval: %q", f.applied())
	}
	if got := f.op(o.ID); got.State != op.Succeeded || got.Approval == nil || f.world.Effects(o.ID) != 1 {
		f.t.Errorf("the op is %s, carried out %d times", got.State, f.world.Effects(o.ID))
	}
}

func (f *forging) run(row forgery) {
	f.begin(row.setUp)
	defer func() { f.stop() }()
	if row.forge != nil {
		row.forge(f)
	}
	had := len(f.applied())
	_, err := f.eng.Approve(f.t.Context(), f.o.ID, f.text, f.sigs, "operator (uid 0)")
	f.wantRefused(err, row.want, had)
	f.after()
	f.wantRight(had)
}

// TestForgedApprovalsInTheEngine: each row differs by one thing from an
// approval that is carried out in the same test.
func TestForgedApprovalsInTheEngine(t *testing.T) {
	everybody := newPeople(t)
	extraKeys(everybody)
	rows := slices.Concat(forgedTexts(), forgedMeanings(), forgedSignatures(), forgedSigners(), forgedPolicies(), forgedTimes(), forgedStates())
	refused := 0
	for _, row := range rows {
		ok := t.Run(row.name, func(t *testing.T) {
			p := *everybody
			p.t = t
			synctest.Test(t, func(t *testing.T) {
				clear(cache)
				f := &forging{rig: newRig(t), p: &p}
				f.run(row)
			})
		})
		if ok {
			refused++
		}
	}
	if len(rows) < 45 {
		t.Errorf("%d rows, want at least 45", len(rows))
	}
	fmt.Printf("forged approvals: %d refused of %d\n", refused, len(rows))
}

// extraKeys: what the forgers have beside the people's own keys.
func extraKeys(p *people) {
	p.generate("alice2", "ed25519")
	p.generate("ca", "ecdsa")
	p.generate("wrong-ca", "ecdsa")
	p.generate("small", "rsa", "-b", "1024")
}

// certify has an authority certify alice's key, and returns whose signatures
// then carry the certificate.
func (f *forging) certify(ca string, args ...string) string {
	name := "cert-" + ca + f.t.Name()
	name = strings.Map(func(r rune) rune {
		if r == '/' {
			return '-'
		}
		return r
	}, name)
	f.p.copyKey(alice, name)
	f.p.keygen("", append(append([]string{"-q", "-s", f.p.file(ca), "-I", "test"}, args...), f.p.file(name)+".pub")...)
	return name
}

// byCert lets alice sign by a certificate of an authority for @example.com.
func byCert(args ...string) func(*forging) {
	return func(f *forging) { f.signWithCert(f.certify("ca", args...)) }
}

func (f *forging) signWithCert(name string) {
	f.sigs = []ledger.Signature{{Principal: alice, Armored: f.p.keygen(f.text, "-Y", "sign", "-q", "-n", gate.ApprovalNamespace, "-f", f.p.file(name)+"-cert.pub")}}
}

// allowCA lists the authority; alice's own key is allowed as before.
func allowCA(f *forging) { f.p.allowed += "*@example.com cert-authority " + f.p.pub("ca") }

// rewrite is a text that alice signs although the agent never issued it.
func rewrite(change func(string) string) func(*forging) {
	return func(f *forging) {
		f.text = change(f.text)
		f.sigs = f.p.signed(f.text, alice)
	}
}

func swap(old, fresh string) func(*forging) {
	return rewrite(func(s string) string { return strings.Replace(s, old, fresh, 1) })
}

// line replaces the value of one line of the request.
func line(key, value string) func(*forging) {
	return rewrite(func(s string) string { return setLine(s, key, value) })
}

func setLine(s, key, value string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, key+": ") {
			lines[i] = key + ": " + value
			break
		}
	}
	return strings.Join(lines, "\n")
}

// reread changes a request as its struct and prints it again.
func reread(change func(r *gate.Request)) func(*forging) {
	return func(f *forging) {
		r, err := gate.ParseRequest([]byte(f.text))
		if err != nil {
			f.t.Fatal(err)
		}
		change(r)
		text, err := r.Text()
		if err != nil {
			f.t.Fatal(err)
		}
		f.text = string(text)
		f.sigs = f.p.signed(f.text, alice)
	}
}

func changed105(change func(*plugintest.Guest)) func(*forging) {
	return func(f *forging) { f.world.Change(105, change) }
}

func noClock(f *forging) {
	bad := true
	f.eng.opt.Clock = func(context.Context) bool { return !bad }
	f.after = func() { bad = false }
}

// copyKey gives a person's key a second name, so that it can have a
// certificate there.
func (p *people) copyKey(from, to string) {
	p.t.Helper()
	for _, suffix := range []string{"", ".pub"} {
		b, err := os.ReadFile(p.file(from) + suffix)
		if err == nil {
			err = os.WriteFile(p.file(to)+suffix, b, 0o600)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// approveNoWait is approve for an op that does not end: it comes back after a
// minute.
func (r *rig) approveNoWait(p *people, o op.Op, who ...string) error {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
	defer cancel()
	_, err := r.eng.Approve(ctx, o.ID, o.Request, p.signed(o.Request, who...), "operator (uid 0)")
	return err
}
