// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// texts is a fold that keeps the payloads, in order.
type texts struct {
	Got []string
	// refuse makes Apply refuse a payload.
	refuse string
}

func (f *texts) Apply(e Entry) error {
	if f.refuse != "" && string(e.Payload) == f.refuse {
		return errors.New("refused by the fold")
	}
	if want := uint64(len(f.Got) + 1); e.Seq != want {
		return fmt.Errorf("entry %d, want %d", e.Seq, want)
	}
	f.Got = append(f.Got, string(e.Payload))
	return nil
}

func (f *texts) Snapshot() ([]byte, error)  { return json.Marshal(f.Got) }
func (f *texts) Restore(state []byte) error { return json.Unmarshal(state, &f.Got) }

const dir = "/var/j"

// payload is a JSON text of about the given size that tells its number.
func payload(n, size int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`"%d %s"`, n, strings.Repeat("x", size)))
}

func payloads(from, to, size int) (out []json.RawMessage) {
	for n := from; n <= to; n++ {
		out = append(out, payload(n, size))
	}
	return out
}

// options are small ones for tests, without anything in the background.
func options(fsystem fsys.FS, fold Fold) Options {
	return Options{FS: fsystem, Dir: dir, Fold: fold, Host: "h", CompactBytes: -1}
}

// mustOpen opens a journal that must be writable, and checks its directory when the test ends.
func mustOpen(t *testing.T, o Options) (*Journal, Report) {
	t.Helper()
	j, report, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if j.Err() != nil {
		t.Fatalf("not writable: %v", j.Err())
	}
	t.Cleanup(func() {
		_ = j.Close()
		mustCheck(t, o.FS)
	})
	return j, report
}

func mustCheck(t *testing.T, fsystem fsys.FS) CheckReport {
	t.Helper()
	report, err := Check(fsystem, dir)
	if err != nil || !report.OK() {
		t.Errorf("check: %v, %v", err, report.Problems)
	}
	return report
}

func mustAppend(t *testing.T, j *Journal, payloads ...json.RawMessage) Head {
	t.Helper()
	head, err := j.Append(t.Context(), payloads...)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

func mustClose(t *testing.T, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// wantTexts compares a fold with payloads 1 to n of a size.
func wantTexts(t *testing.T, fold *texts, n, size int) {
	t.Helper()
	var want []string
	for _, p := range payloads(1, n, size) {
		want = append(want, string(p))
	}
	if diff := cmp.Diff(want, fold.Got); diff != "" {
		t.Errorf("want, got:\n%s", diff)
	}
}

// filled returns a file system with a closed journal of n batches of two entries each.
func filled(t *testing.T, n, size int, change func(*Options)) *fault.FS {
	t.Helper()
	f := fault.New()
	o := options(f, &texts{})
	if change != nil {
		change(&o)
	}
	j, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		mustAppend(t, j, payloads(2*i+1, 2*i+2, size)...)
	}
	mustClose(t, j)
	mustCheck(t, f)
	return f
}

// only sets a rule that does something to calls of one name.
func only(op string, act fault.Action) func(fault.Call) fault.Action {
	return func(c fault.Call) fault.Action {
		if c.Op == op {
			return act
		}
		return fault.Action{}
	}
}
