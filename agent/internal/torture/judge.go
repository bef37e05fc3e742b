// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// Verdict counts what was found wrong; Texts are the first few of it.
type Verdict struct {
	Lost, Doubled, Stuck int
	Texts                []string
}

const maxTexts = 8

func (v *Verdict) bad(count *int, format string, args ...any) {
	*count++
	if len(v.Texts) < maxTexts {
		v.Texts = append(v.Texts, fmt.Sprintf(format, args...))
	}
}

// Lose notes something lost, Double something done twice, Jam something stuck.
func (v *Verdict) Lose(format string, args ...any) { v.bad(&v.Lost, "lost: "+format, args...) }

func (v *Verdict) Double(format string, args ...any) { v.bad(&v.Doubled, "doubled: "+format, args...) }
func (v *Verdict) Jam(format string, args ...any)    { v.bad(&v.Stuck, "stuck: "+format, args...) }

// OK tells that nothing was wrong.
func (v *Verdict) OK() bool { return v.Lost+v.Doubled+v.Stuck == 0 }

// Add puts another verdict, of what is named, to this one.
func (v *Verdict) Add(what string, o Verdict) {
	v.Lost += o.Lost
	v.Doubled += o.Doubled
	v.Stuck += o.Stuck
	for _, t := range o.Texts {
		if len(v.Texts) < maxTexts {
			v.Texts = append(v.Texts, what+": "+t)
		}
	}
}

// Attempt is one sending of an op as the journal tells it.
type Attempt struct {
	Op op.Op // as it ended
	No int
	// Sent is when its intent was written.
	Sent time.Time
	// done is what the node executed of it.
	done map[string]bool
}

// Story is what a journal tells: every attempt, and the state it adds up to.
type Story struct {
	Attempts []*Attempt
	Ledger   *ledger.Ledger
	Payloads []string
	// Slack is by how much the clock was set back, so much may a sending seem to be later than its execution.
	Slack time.Duration
}

// ReadStory reads a journal that nothing was removed from.
func ReadStory(fs fsys.FS, dir string) (*Story, error) {
	s := &Story{Ledger: ledger.New()}
	var bad error
	err := journal.Read(fs, dir, 0, func(e journal.Entry, _ journal.Frame) bool {
		bad = s.take(e)
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	for _, a := range s.Attempts {
		if o, ok := s.Ledger.Op(a.Op.ID); ok {
			last := a.No == o.Attempt
			a.Op = o
			if !last { // an attempt that another one followed
				a.Op.State, a.Op.Handle = op.Retried, ""
			}
		}
	}
	return s, nil
}

func (s *Story) take(e journal.Entry) error {
	r, err := ledger.Decode(e.Payload)
	if err != nil {
		return err
	}
	s.Payloads = append(s.Payloads, string(e.Payload))
	if r.Op != nil && r.Op.State == op.Intent {
		s.Attempts = append(s.Attempts, &Attempt{Op: *r.Op, No: r.Op.Attempt, Sent: r.Op.Sent})
	}
	return s.Ledger.Apply(e)
}

// Judge holds what the node executed for user against the attempts in the journal: each execution belongs to an attempt
// of its own that was on disk before it, and to none that the agent took for not sent.
func (s *Story) Judge(record []pvetest.Mutation, user string) (v Verdict) {
	for _, a := range s.Attempts {
		a.done = map[string]bool{}
	}
	for _, m := range record {
		if m.User == user {
			s.judge(&v, m)
		}
	}
	return v
}

func (s *Story) judge(v *Verdict, m pvetest.Mutation) {
	var owner *Attempt
	taken := 0
	for _, a := range s.Attempts {
		switch {
		case !a.mayBe(m, s.Slack):
		case a.done[m.What]:
			taken++
		case owner == nil || a.likelier(owner, m):
			owner = a
		}
	}
	switch {
	case owner != nil:
		owner.done[m.What] = true
		if owner.Op.State == op.Abandoned {
			v.Double("%s was executed although op %s was taken for not sent (%s)", words(m), owner.Op.ID, owner.Op.Message)
		}
	case taken > 0:
		v.Double("%s was executed once more than it was intended", words(m))
	default:
		v.Lose("%s was executed and no intent of it is in the journal", words(m))
	}
}

func words(m pvetest.Mutation) string {
	return strings.TrimSpace(fmt.Sprintf("%s of %d at %s %s %s", m.What, m.VMID, m.Time.Format("15:04:05.000"), m.UPID, m.Detail))
}

var kinds = map[string][]plugin.ActionKind{
	"start": {plugin.Start}, "stop": {plugin.Stop, plugin.Shutdown}, "shutdown": {plugin.Shutdown, plugin.Stop},
	"reboot": {plugin.Reboot}, "config": {plugin.SetConfig, plugin.Destroy}, // which clears the protection first
	"destroy": {plugin.Destroy}, "create": {plugin.Provision}, "clone": {plugin.Provision}, "restore": {plugin.Provision, plugin.Restore},
}

// mayBe tells whether an execution may be this attempt's.
func (a *Attempt) mayBe(m pvetest.Mutation, slack time.Duration) bool {
	if int(a.Op.Guest.VMID) != m.VMID || !slices.Contains(kinds[m.What], a.Op.Kind) || a.Sent.After(m.Time.Add(slack)) {
		return false
	}
	return a.Op.Handle == "" || m.UPID == "" || a.Op.Handle == m.UPID || m.What == "config"
}

// likelier tells whether an execution is rather this attempt's than another's: the task tells, then what the agent took
// for sent, then the time.
func (a *Attempt) likelier(b *Attempt, m pvetest.Mutation) bool {
	if m.UPID != "" && (a.Op.Handle == m.UPID) != (b.Op.Handle == m.UPID) {
		return a.Op.Handle == m.UPID
	}
	if (a.Op.State == op.Abandoned) != (b.Op.State == op.Abandoned) {
		return b.Op.State == op.Abandoned
	}
	return a.Sent.After(b.Sent)
}

// JudgeEnds finds ops that have no end although everything is quiet.
func (s *Story) JudgeEnds() (v Verdict) {
	for _, o := range s.Ledger.Ops() {
		if !o.State.Ended() && o.State != op.Unknown {
			v.Jam("op %s (%s of %s) is %s", o.ID, o.Kind, o.Guest, o.State)
		}
	}
	return v
}

func (s *Story) quiet() bool {
	v := s.JudgeEnds()
	return v.OK()
}

// JudgeKept finds payloads that were acknowledged and are not there. Their
// order is not judged: of two that were appended side by side the later one may
// be told first.
func (s *Story) JudgeKept(acked []string) (v Verdict) {
	there := map[string]int{}
	for _, p := range s.Payloads {
		there[p]++
	}
	for _, p := range acked {
		if there[p]--; there[p] < 0 {
			v.Lose("an acknowledged record is not in the journal: %.120s", p)
		}
	}
	return v
}

// JudgeReplay finds differences between the memory of a running agent and what its journal adds up to.
func (s *Story) JudgeReplay(memory *ledger.Ledger) (v Verdict) {
	disk, err := s.Ledger.Snapshot()
	if err != nil {
		v.Jam("snapshot: %v", err)
	}
	mem, err := memory.Snapshot()
	if err != nil {
		v.Jam("snapshot: %v", err)
	}
	if string(disk) != string(mem) {
		v.Lose("the journal does not add up to what is in memory:\ndisk   %.2000s\nmemory %.2000s", disk, mem)
	}
	return v
}

// JudgeJournal checks the journal itself.
func JudgeJournal(fs fsys.FS, dir string) (v Verdict) {
	rep, err := journal.Check(fs, dir)
	if err != nil {
		v.Jam("journal check: %v", err)
	}
	for _, p := range rep.Problems {
		v.Jam("journal check: %v", p)
	}
	return v
}
