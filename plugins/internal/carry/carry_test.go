// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func TestThereAndBack(t *testing.T) {
	for name, files := range map[string][]plugin.File{
		"nothing": {},
		"some": {
			{Name: "a.toml", Data: []byte("x = 1\n"), Signatures: [][]byte{[]byte("one"), []byte("two")}},
			{Name: "b.json", Data: []byte{0xff, 0}},
		},
	} {
		b, err := Encode(files)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(plugin.Snapshot{Revision: Revision(files), Files: files}, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestBounds(t *testing.T) {
	big := strings.Repeat("A", 1<<20/3*4+8)
	many := func(n int, f string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(f, i)
		}
		return `{"files":[` + strings.Join(all, ",") + `]}`
	}
	for text, want := range map[string]string{
		many(2001, `{"name":"%d"}`):                                                     "2001 files",
		`{"files":[{"name":"a","data":"` + big + `"}]}`:                                 "more than 1048576",
		many(9, `{"name":"%d","data":"`+big[:950_000/3*4]+`"}`):                         "more than 8388608",
		`{"files":[{"name":"` + strings.Repeat("a", 256) + `"}]}`:                       "not the name",
		`{"files":[{"name":"a","signatures":["` + strings.Repeat("a", 65<<10) + `"]}]}`: "a signature",
		`{"files":[{"name":"a","signatures":[` + strings.Repeat(`"a",`, 16) + `"a"]}]}`: "17 signatures",
		`{"files":[{"name":"a","data":"?"}]}`:                                           "not in its form",
		`[]`:                                                                            "not in its form",
		`{"files":[]}x`:                                                                 "not in its form",
	} {
		s, err := Decode([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || len(s.Files) > 0 {
			t.Errorf("%.60s: %v, want %q", text, err, want)
		}
	}
}

func TestRevisionTellsSetsApart(t *testing.T) {
	f := func(name, data string, sigs ...string) plugin.File {
		out := plugin.File{Name: name, Data: []byte(data)}
		for _, s := range sigs {
			out.Signatures = append(out.Signatures, []byte(s))
		}
		return out
	}
	seen := map[string]int{}
	for i, set := range [][]plugin.File{
		{},
		{f("a", "")},
		{f("", "a")},
		{f("a", "b")},
		{f("ab", "")},
		{f("a", "b"), f("c", "d")},
		{f("a", "b", "c")},
		{f("a", "b", "c", "d")},
		{f("a", "b", "cd")},
		{f("a", "b", "")},
		{f("a", "b"), f("", "")},
	} {
		if j, ok := seen[Revision(set)]; ok {
			t.Errorf("sets %d and %d have one revision", i, j)
		}
		seen[Revision(set)] = i
	}
}

func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		f := &Feed{Emit: func(s plugin.Snapshot) error {
			got = append(got, s.Revision+s.Err)
			return nil
		}}
		one, two := plugin.Snapshot{Revision: "1"}, plugin.Snapshot{Revision: "2"}
		step := func(what string, do func(), want ...string) {
			t.Helper()
			got = nil
			do()
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: %s", what, d)
			}
		}
		bad := errors.New("away")
		step("nothing to confirm", f.Same)
		step("a failure at first is told", func() { f.Bad(bad) }, "away")
		step("and the same not again", func() { f.Bad(bad) })
		step("another one is", func() { f.Bad(errors.New("gone")) }, "gone")
		step("a set", func() { f.Good(one) }, "1")
		step("the same", func() { f.Good(one); f.Same() })
		time.Sleep(Confirm)
		step("the same, a while later", f.Same, "1")
		step("another", func() { f.Good(two) }, "2")
		step("a hiccup", func() { f.Bad(bad); f.Good(two) })
		step("more than one", func() { f.Bad(bad); f.Bad(bad); f.Bad(bad) }, "away")
		time.Sleep(Confirm)
		step("still, a while later", func() { f.Bad(bad) }, "away")
		step("back with the same set", f.Same, "2")
		if f.Failures() != 0 {
			t.Error("failures are counted on")
		}
	})
}

func TestBackoff(t *testing.T) {
	for n := range 100 {
		d := Backoff(n, time.Minute)
		if want := min(time.Second<<min(max(n-1, 0), 20), time.Minute); d < want/2 || d > want {
			t.Errorf("after %d failures %s, want %s to %s", n, d, want/2, want)
		}
	}
}
