// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// heads are the heads after each entry that is kept.
func heads(t *testing.T, f *fault.FS) map[uint64]Head {
	t.Helper()
	out := map[uint64]Head{}
	err := Read(f, dir, 0, func(e Entry, fr Frame) bool { out[e.Seq] = Head{e.Seq, fr.Hash}; return true })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustExport(t *testing.T, f *fault.FS, r Range) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Export(f, dir, r, &out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestExportProvesARange(t *testing.T) {
	f := archived(t)
	at := heads(t, f)
	for name, c := range map[string]struct {
		r                Range
		known            []Head
		proves, unknown  []string
		entries          int
		confirm, outside int
	}{
		"with a head noted after it": {
			Range{From: 7, To: 10},
			[]Head{at[20]},
			[]string{"entries 7 to 10", "noted elsewhere"},
			[]string{"before entry 7", "after entry 24", "host's clock"},
			4, 1, 0,
		},
		"without any head": {
			Range{From: 7, To: 10}, nil, []string{"entries 7 to 10"}, []string{"whole chain"}, 4, 0, 0,
		},
		"with heads before it only": {
			Range{From: 7, To: 10, First: 6},
			[]Head{at[5], at[8]},
			[]string{"at entry 5", "at entry 8"},
			[]string{"entries 9 to 10 are as they were written"},
			4, 2, 0,
		},
		"with a head outside": {
			Range{From: 7, To: 10, Last: 12}, []Head{at[20]}, nil, []string{"whole chain", "after entry 12", "at entry 20"}, 4, 0, 1,
		},
		"with a head before and one after": {
			Range{From: 7, To: 10, Last: 12},
			[]Head{at[5], at[9], at[20]},
			[]string{"at entry 9"},
			[]string{"hash at entry 5", "hash at entry 20", "were removed"},
			4, 1, 2,
		},
		"all that is kept": {Range{From: 5}, []Head{at[24]}, nil, []string{"before entry 5"}, 20, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			export := mustExport(t, f, c.r)
			var got []string
			v, err := VerifyExport(bytes.NewReader(export), c.known, func(e Entry) { got = append(got, string(e.Payload)) })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(asTexts(payloads(int(v.From), int(v.To), 10)), got); diff != "" || len(got) != c.entries {
				t.Error(diff)
			}
			if len(v.Confirmed) != c.confirm || len(v.Outside) != c.outside || v.Head != at[v.Last] {
				t.Errorf("%+v", v)
			}
			wantAll(t, v.Proves, c.proves)
			wantAll(t, v.Unknown, c.unknown)
			if c.r.To == 10 && strings.Contains(string(export), string(payload(11, 10))) {
				t.Error("it tells entries outside of the range")
			}
		})
	}
}

func wantAll(t *testing.T, got, want []string) {
	t.Helper()
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
			t.Errorf("%q is not in %q", w, got)
		}
	}
}

func TestExportFromTheBeginning(t *testing.T) {
	f := filled(t, 3, 10, nil)
	v, err := VerifyExport(bytes.NewReader(mustExport(t, f, Range{From: 1})), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, v.Proves, []string{`host "h"`, "entries 1 to 6"})
}

func TestExportOfWhatIsNotThere(t *testing.T) {
	f := archived(t)
	for _, r := range []Range{{}, {From: 25}, {From: 9, To: 8}, {From: 9, To: 25}, {From: 9, First: 10}, {From: 9, To: 10, Last: 9}} {
		if err := Export(f, dir, r, &bytes.Buffer{}); err == nil {
			t.Errorf("%+v was exported", r)
		}
	}
	if err := Export(f, dir, Range{From: 2}, &bytes.Buffer{}); !errors.Is(err, ErrGone) {
		t.Errorf("what was deleted: %v", err)
	}
}

// TestEveryForgeryIsFound changes each byte of an export, and cuts it everywhere.
func TestEveryForgeryIsFound(t *testing.T) {
	f := archived(t)
	export := mustExport(t, f, Range{From: 8, To: 9, First: 7, Last: 11})
	known := []Head{heads(t, f)[11]}
	if _, err := VerifyExport(bytes.NewReader(export), known, nil); err != nil {
		t.Fatal(err)
	}
	for i := range export {
		forged := slices.Clone(export)
		forged[i] ^= 1 << (i % 7)
		if _, err := VerifyExport(bytes.NewReader(forged), known, nil); err == nil {
			t.Errorf("byte %d changed and not noticed", i)
		}
		if _, err := VerifyExport(bytes.NewReader(export[:i]), known, nil); err == nil {
			t.Errorf("cut at byte %d and not noticed", i)
		}
	}
	if _, err := VerifyExport(bytes.NewReader(append(export, '\n')), known, nil); !errors.Is(err, ErrForged) {
		t.Errorf("something behind: %v", err)
	}
}

// TestForgedChain has all checksums and hashes right: only a head noted elsewhere can tell.
func TestForgedChain(t *testing.T) {
	genuine, forged := filled(t, 3, 10, nil), fault.New()
	h, rest, err := takeSegmentHeader(genuine.Content(firstSegment))
	if err != nil || len(rest) == 0 {
		t.Fatal(err)
	}
	at := h.before()
	lines := headerLine(h)
	for n := range 6 {
		at.batch = uint64(n/2 + 1)
		lines = appendEntry(lines, &at, n%2+1, 2, sampleTime, payload(100+n, 10))
	}
	if err := forged.MkdirAll("T", dir, 0); err != nil {
		t.Fatal(err)
	}
	forged.SetContent(firstSegment, lines)
	if report := mustCheck(t, forged); report.Head.Seq != 6 {
		t.Fatalf("%+v", report)
	}
	export := mustExport(t, forged, Range{From: 1})
	v, err := VerifyExport(bytes.NewReader(export), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantAll(t, v.Unknown, []string{"whole chain"})
	_, err = VerifyExport(bytes.NewReader(export), []Head{heads(t, genuine)[4]}, nil)
	if !errors.Is(err, ErrForged) || !strings.Contains(err.Error(), "entry 4") {
		t.Errorf("against a head noted elsewhere: %v", err)
	}
}

// FuzzVerify: nothing that is read makes it panic or take more memory than the input is worth.
func FuzzVerify(f *testing.F) {
	at := cursor{hash: genesis("id", "h")}
	h := exportHeader{Version: 1, ID: "id", Host: "h", First: 1, From: 1, To: 1, Last: 1, Prev: at.hash}
	line := appendEntry(nil, &at, 1, 1, sampleTime, payload(1, 5))
	h.Hash = at.hash
	f.Add(append(headerLine(h), line...))
	f.Add([]byte("01ffffff 00000000 "))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := VerifyExport(bytes.NewReader(data), []Head{{1, at.hash}}, nil)
		if err == nil && len(v.Proves) == 0 {
			t.Error("it proves nothing and says so to nobody")
		}
	})
}
