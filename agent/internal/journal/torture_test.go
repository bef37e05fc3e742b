// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// The torture test runs each scenario once for every call to the file system and everything that can happen to that
// call: it fails, it is torn, the machine stops before or after it. Then it tries what may be found afterwards (the page
// cache as it is, or the disk with any subset of what was not synced), opens the journal and judges it:
//
//	lost     an acknowledged entry is not there
//	doubled  something is there twice, half, out of order, or although it was refused
//	stuck    the journal cannot be opened or written, or the checker finds a problem
//
// FELHOM_TORTURE=full tries all of it, otherwise every so-many-th point. Each scenario prints one row.

// verdict counts what was found wrong; the texts are the first few.
type verdict struct {
	points, lost, doubled, stuck int
	texts                        []string
}

func (v *verdict) bad(count *int, format string, args ...any) {
	*count++
	if len(v.texts) < 5 {
		v.texts = append(v.texts, fmt.Sprintf(format, args...))
	}
}

// run is one pass through a scenario: the journal and what it promised.
type run struct {
	fs   *fault.FS
	o    Options
	j    *Journal
	next int
	// acked were acknowledged; maybe is the batch whose fate is not known. Whatever else was tried was refused.
	acked, maybe []string
	found        []string
	fold         *texts
	wrong        []string
	calls        []fault.Call
}

type step func(r *run)

// add appends n entries of about size bytes as one batch.
func add(n, size int) step {
	return func(r *run) {
		if r.j == nil {
			return
		}
		batch := payloads(r.next+1, r.next+n, size)
		r.next += n
		_, err := r.j.Append(context.Background(), batch...)
		switch {
		case err == nil:
			r.settle()
			r.acked = append(r.acked, asTexts(batch)...)
		case errors.Is(err, ErrUnknown):
			if r.maybe != nil {
				r.wrong = append(r.wrong, "a batch was written after one whose fate is not known")
			}
			r.maybe = asTexts(batch)
		}
	}
}

func asTexts[T ~[]byte](in []T) (out []string) {
	for _, p := range in {
		out = append(out, string(p))
	}
	return out
}

func compact(r *run) {
	if r.j != nil {
		_ = r.j.Compact(context.Background())
	}
}

func quota(room int64) step {
	return func(r *run) {
		if room < 0 {
			r.fs.SetQuota(room)
		} else {
			r.fs.SetQuota(room + r.fs.Used())
		}
	}
}

// reopen ends the agent in order and starts the next one, which settles what was not known.
func reopen(r *run) {
	if r.j != nil {
		_ = r.j.Close()
	}
	r.open()
	if r.j == nil {
		return
	}
	r.wrong = append(r.wrong, r.judge(r.fold.Got)...)
	r.found = append([]string{}, r.fold.Got...)
	if r.j.Err() == nil {
		r.settle()
	}
}

// settle makes promises of what the last Open found. It is on disk when the journal can be written, not before.
func (r *run) settle() {
	if r.found != nil {
		r.acked, r.maybe, r.found = r.found, nil, nil
	}
}

func (r *run) open() {
	r.fold = &texts{}
	r.o.FS, r.o.Fold = r.fs, r.fold
	r.j, _, _ = Open(context.Background(), r.o)
}

// judge compares what is there with what was promised.
func (r *run) judge(got []string) (wrong []string) {
	if len(got) < len(r.acked) || !slices.Equal(got[:len(r.acked)], r.acked) {
		return []string{fmt.Sprintf("lost: %d entries acknowledged, there are %s", len(r.acked), short(got))}
	}
	if rest := got[len(r.acked):]; len(rest) > 0 && !slices.Equal(rest, r.maybe) {
		return []string{fmt.Sprintf("doubled: %s are there, beyond the %d acknowledged; not known were %s", short(rest), len(r.acked), short(r.maybe))}
	}
	return nil
}

func short(texts []string) string {
	var out []string
	for _, t := range texts {
		n, _, _ := strings.Cut(t, " ")
		out = append(out, n)
	}
	return "[" + strings.Join(out, " ") + "]"
}

type scenario struct {
	name  string
	o     func(*Options)
	steps []step
}

var scenarios = []scenario{
	{"append", nil, []step{
		add(1, 10), add(3, 20), add(1, 500), reopen, add(2, 10), reopen, reopen, add(1, 10),
	}},
	{"rotate", func(o *Options) { o.SegmentBytes = 500 }, []step{
		add(2, 10), add(1, 300), add(1, 10), add(3, 100), reopen, add(1, 300), add(1, 10),
	}},
	{"compact", func(o *Options) { o.Keep, o.KeepArchived = -1, 1 }, []step{
		add(2, 10), compact, add(1, 10), compact, add(1, 300), compact, reopen, add(2, 10), compact, add(1, 10),
	}},
	{"full disk", func(o *Options) { o.SegmentBytes = 900 }, []step{
		add(2, 10), quota(300), add(2, 200), add(1, 10), quota(-1), add(1, 300), quota(0), add(1, 10), compact, reopen,
		add(1, 10), quota(-1), add(2, 100), reopen, add(1, 10),
	}},
}

// actions are what can happen to a call.
func actions(c fault.Call) []fault.Action {
	verb := c.Op[strings.LastIndex(c.Op, ":")+1:]
	out := []fault.Action{{Err: syscall.EIO}, {Crash: fault.Before}}
	half := func(unit int) bool { return unit%2 == 0 }
	all := func(int) bool { return true }
	switch verb {
	case "READ", "READDIR", "SIZE":
		return out[:1]
	case "WRITE":
		for _, part := range []int{1, c.Bytes / 2, c.Bytes - 1} {
			out = append(out, fault.Action{Err: syscall.EIO, Part: part}, fault.Action{Err: syscall.ENOSPC, Part: part},
				fault.Action{Crash: fault.Before, Part: part})
		}
		out = append(out, fault.Action{Err: syscall.EIO, Part: c.Bytes}, fault.Action{Err: syscall.ENOSPC})
	case "SYNC", "DATASYNC":
		out = append(out, fault.Action{Err: syscall.EIO, Kept: half}, fault.Action{Err: syscall.EIO, Kept: all},
			fault.Action{Err: syscall.ENOSPC})
	case "OPEN", "MKDIR":
		out = append(out, fault.Action{Err: syscall.ENOSPC}, fault.Action{Err: syscall.EROFS})
	case "RENAME", "REMOVE":
		out = append(out, fault.Action{Err: syscall.EIO, Part: 1}, fault.Action{Err: syscall.EROFS})
	}
	return append(out, fault.Action{Crash: fault.After})
}

// torture tries a scenario. stride above 1 tries a sample. lie, if set, is what the program
// forgets all the time; then it is enough to find that something is wrong.
func (s scenario) torture(stride, outcomes int, lie func(fault.Call) fault.Action) verdict {
	var v verdict
	t := s.torturer(&v, outcomes)
	t.lie = lie
	calls := t.pass(nil).calls
	turn := 0
	for _, c := range calls {
		for _, act := range actions(c) {
			if turn++; turn%stride != 0 || lie != nil && len(v.texts) > 0 {
				continue
			}
			t.what = fmt.Sprintf("%s: call %d %s, %s", s.name, c.N, c.Op, describe(act))
			r := t.pass(func(n int) (fault.Action, bool) { return act, n == c.N })
			for _, w := range r.wrong {
				t.wrong(w)
			}
			t.afterwards(r)
		}
	}
	return v
}

func (s scenario) torturer(v *verdict, outcomes int) *torturer {
	return &torturer{v: v, scenario: s, outcomes: outcomes, random: rand.New(rand.NewPCG(1, 7))}
}

// tortureRecovery crashes the scenario, and then what comes after the crash, at every pair of calls (of every stride-th crash,
// limit of them).
func (s scenario) tortureRecovery(stride, limit int) verdict {
	var v verdict
	t := s.torturer(&v, 3)
	turn := 0
	for _, c := range t.pass(nil).calls {
		if strings.HasSuffix(c.Op, "READ") || strings.HasSuffix(c.Op, "SIZE") {
			continue
		}
		crashed := t.pass(func(n int) (fault.Action, bool) { return fault.Action{Crash: fault.After}, n == c.N })
		for choice := range fault.Outcomes(crashed.fs.Choices(), 4, t.random) {
			if turn++; turn%stride != 0 || turn/stride > limit {
				continue
			}
			f := crashed.fs.Clone()
			f.PowerCut(choice)
			f.SetQuota(-1)
			t.what = fmt.Sprintf("%s: crash after call %d %s, power cut %v", s.name, c.N, c.Op, choice)
			t.crashRecovery(crashed, f)
		}
	}
	return v
}

// crashRecovery opens what a crash left, goes on, and crashes that at every call.
func (t *torturer) crashRecovery(crashed *run, f *fault.FS) {
	again := func(at int, act fault.Action) *run {
		r := &run{fs: f.Clone(), o: crashed.o, acked: crashed.acked, maybe: crashed.maybe, next: crashed.next + 100}
		r.fs.Inject(func(c fault.Call) fault.Action {
			if c.N == at {
				return act
			}
			return fault.Action{}
		})
		for _, s := range []step{reopen, add(1, 30), compact, add(1, 30)} {
			if !r.fs.Crashed() {
				s(r)
			}
		}
		r.release()
		return r
	}
	what := t.what
	for _, c := range again(0, fault.Action{}).calls {
		for _, act := range []fault.Action{{Crash: fault.Before}, {Crash: fault.After}, {Err: syscall.EIO}} {
			t.what = fmt.Sprintf("%s, then call %d %s, %s", what, c.N, c.Op, describe(act))
			r := again(c.N, act)
			for _, w := range r.wrong {
				t.wrong(w)
			}
			t.afterwards(r)
		}
	}
}

func describe(a fault.Action) string {
	return fmt.Sprintf("err %v part %d kept %v crash %d", a.Err, a.Part, a.Kept != nil, a.Crash)
}

type torturer struct {
	v        *verdict
	scenario scenario
	lie      func(fault.Call) fault.Action
	outcomes int
	random   *rand.Rand
	what     string
}

// pass runs the scenario's steps, with a fault where one is wanted, and leaves everything as it is at the end or the
// crash.
func (t *torturer) pass(faulty func(n int) (fault.Action, bool)) *run {
	r := &run{fs: fault.New(), o: options(nil, nil)}
	if t.scenario.o != nil {
		t.scenario.o(&r.o)
	}
	r.fs.Inject(func(c fault.Call) fault.Action {
		if faulty != nil {
			if act, ok := faulty(c.N); ok {
				return act
			}
		}
		if t.lie != nil {
			return t.lie(c)
		}
		return fault.Action{}
	})
	r.open()
	for _, s := range t.scenario.steps {
		if r.fs.Crashed() {
			break
		}
		s(r)
	}
	r.release()
	return r
}

// release keeps the file system as it is now, and then ends what the journal has running.
func (r *run) release() {
	r.calls = r.fs.Calls()
	r.fs = r.fs.Clone() // which Close below does not touch
	if r.j != nil {
		_ = r.j.Close()
	}
}

// afterwards tries what may be found after a run.
func (t *torturer) afterwards(r *run) {
	found := func(how string, cut func(f *fault.FS)) {
		f := r.fs.Clone()
		f.SetQuota(-1)
		cut(f)
		t.v.points++
		what := t.what
		t.what += ", " + how
		t.found(r, f)
		t.what = what
	}
	found("process killed", func(f *fault.FS) { f.Kill() })
	found("process killed, caches dropped", func(f *fault.FS) { f.Kill(); f.DropCaches() })
	for choice := range fault.Outcomes(r.fs.Choices(), t.outcomes, t.random) {
		found(fmt.Sprintf("power cut %v", choice), func(f *fault.FS) { f.PowerCut(choice) })
	}
}

func (t *torturer) wrong(text string) {
	count := &t.v.stuck
	switch {
	case strings.HasPrefix(text, "lost"):
		count = &t.v.lost
	case strings.HasPrefix(text, "doubled"):
		count = &t.v.doubled
	}
	t.v.bad(count, "%s: %s", t.what, text)
}

// found opens what is found, goes on with it, and cuts the power again with nothing kept but what was promised.
func (t *torturer) found(r *run, f *fault.FS) {
	for round := range 2 {
		if check, err := Check(f, dir); err != nil && !errors.Is(err, os.ErrNotExist) || !check.OK() {
			t.wrong(fmt.Sprintf("stuck: round %d: check: %v, %v", round, err, check.Problems))
		}
		next := &run{fs: f, o: r.o, acked: r.acked, maybe: r.maybe, next: r.next + 100}
		var err error
		next.fold = &texts{}
		next.o.FS, next.o.Fold = f, next.fold
		if next.j, _, err = Open(context.Background(), next.o); err != nil || next.j.Err() != nil {
			t.wrong(fmt.Sprintf("stuck: round %d: open: %v", round, errors.Join(err, errOf(next.j))))
			return
		}
		for _, w := range next.judge(next.fold.Got) {
			t.wrong(fmt.Sprintf("%s (round %d)", w, round))
		}
		next.acked, next.maybe = slices.Clone(next.fold.Got), nil
		add(2, 20)(next)
		if len(next.acked) != len(next.fold.Got) || next.maybe != nil || next.j.Err() != nil {
			t.wrong(fmt.Sprintf("stuck: round %d: append: %v", round, next.j.Err()))
		}
		if round == 1 {
			compact(next)
		}
		f.Stop()
		_ = next.j.Close()
		f.PowerCut(nil)
		r = next
	}
}

func errOf(j *Journal) error {
	if j == nil {
		return nil
	}
	return j.Err()
}

func (v verdict) print(name string) {
	fmt.Printf("torture journal/%s points %d lost %d doubled %d stuck %d\n", name, v.points, v.lost, v.doubled, v.stuck)
}

func full() bool { return os.Getenv("FELHOM_TORTURE") == "full" }

func TestTortureJournal(t *testing.T) {
	stride, outcomes := 37, 8
	if full() {
		stride, outcomes = 1, 64
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			v := s.torture(stride, outcomes, nil)
			v.print(s.name)
			for _, text := range v.texts {
				t.Error(text)
			}
			if v.points == 0 {
				t.Error("nothing was tried")
			}
		})
	}
}

// TestTortureJournalRecovery crashes a second time while the first crash is recovered from.
func TestTortureJournalRecovery(t *testing.T) {
	stride, limit := 31, 1
	if full() {
		stride, limit = 9, 1_000_000
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			v := s.tortureRecovery(stride, limit)
			v.print(s.name + ", crash in recovery")
			for _, text := range v.texts {
				t.Error(text)
			}
		})
	}
}

// TestTortureFindsWhatIsForgotten leaves out one sync at a time: the torture must notice each. (Those not named here
// are made up for by a later one, or by the older snapshot.)
func TestTortureFindsWhatIsForgotten(t *testing.T) {
	for op, name := range map[string]string{
		"APPEND:DATASYNC": "append", "ADOPT:SYNC": "append", "ADOPT:SYNCDIR": "append",
		"ROTATE:SYNC": "rotate", "ROTATE:SYNCDIR": "rotate",
		"SNAPSHOT:SYNC": "compact", "STUB:SYNC": "compact",
	} {
		t.Run(op, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
			v := scenarios[i].torture(11, 16, only(op, fault.Action{Skip: true}))
			if v.lost+v.doubled+v.stuck == 0 {
				t.Errorf("%d points, and it was not noticed", v.points)
			}
		})
	}
}
