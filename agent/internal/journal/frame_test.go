// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var sampleTime = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

// sampleLine is an entry's line and the point before it.
func sampleLine(payload string) (line []byte, before cursor) {
	before = cursor{seq: 8, batch: 5, hash: genesis("id", "host")}
	at := before
	return appendEntry(nil, &at, 1, 2, sampleTime, []byte(payload)), before
}

func TestEntryIsReadBackAsWritten(t *testing.T) {
	line, before := sampleLine(`{"op":"start","n":1}`)
	body, n, err := cutLine(append(line[:len(line):len(line)], "next"...))
	if err != nil || n != len(line) {
		t.Fatalf("%d of %d, %v", n, len(line), err)
	}
	e, f, err := parseEntry(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Entry{9, sampleTime, json.RawMessage(`{"op":"start","n":1}`)}, e); diff != "" {
		t.Error(diff)
	}
	want := Frame{Batch: 5, Part: 1, Parts: 2, Digest: f.Digest, Hash: link(before.hash, f.Digest)}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Error(diff)
	}
}

// TestChainCanBeRecomputedByHand keeps the package comment's recipe true: sha256sum is all it takes.
func TestChainCanBeRecomputedByHand(t *testing.T) {
	tool, err := exec.LookPath("sha256sum")
	if err != nil {
		t.Skip("no sha256sum here")
	}
	hash := func(text string) string {
		cmd := exec.CommandContext(t.Context(), tool)
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out[:64])
	}
	line, before := sampleLine(`{"a":1}`)
	body, stored, _ := strings.Cut(string(line[prefixLen:]), `,"hash":"`)
	if got := hash(before.hash + hash(body)); got != stored[:64] {
		t.Errorf("by hand %s, stored %s", got, stored[:64])
	}
	if got := hash("felhom journal\n1\nid\nhost\n"); got != before.hash {
		t.Errorf("beginning by hand %s, ours %s", got, before.hash)
	}
}

func TestBadLinesAreRefused(t *testing.T) {
	line, _ := sampleLine(`{"a":1}`)
	edit := func(old, new string) string { return strings.Replace(string(line), old, new, 1) }
	for name, c := range map[string]struct {
		data string
		want error
	}{
		"empty":            {"", errIncomplete},
		"cut":              {string(line[:len(line)-1]), errIncomplete},
		"zeros":            {string(make([]byte, 100)), errPrefix},
		"text":             {strings.Repeat("hello ", 20), errPrefix},
		"upper case":       {strings.ToUpper(string(line[:17])) + string(line[17:]), errPrefix},
		"huge length":      {"ffffffff" + string(line[8:]), errLength},
		"length too small": {"00000010" + string(line[8:]), errLength},
		"payload changed":  {edit(`"a":1`, `"a":2`), errChecksum},
		"hash changed":     {edit(`"hash":"`, `"hasj":"`), errChecksum},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := cutLine([]byte(c.data)); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestBodiesOutOfFormAreRefused(t *testing.T) {
	line, _ := sampleLine(`{"a":1}`)
	body := string(line[prefixLen : len(line)-1])
	if _, _, err := parseEntry([]byte(body)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"leading zero":     {`"seq":9`, `"seq":09`},
		"negative":         {`"seq":9`, `"seq":-9`},
		"no number":        {`"seq":9`, `"seq":`},
		"too many digits":  {`"seq":9`, `"seq":9999999999999999999`},
		"space":            {`"batch"`, ` "batch"`},
		"part 0":           {`1/2`, `0/2`},
		"part past parts":  {`1/2`, `3/2`},
		"other time zone":  {`000600Z`, `00060+00:00`},
		"no such day":      {`2026-01-02`, `2026-02-30`},
		"no JSON":          {`{"a":1}`, `{"a":}`},
		"two values":       {`{"a":1}`, `{"a":1} 2`},
		"upper case hash":  {`"hash":"`, `"hash":"A`},
		"further field":    {`"}`, `","x":""}`},
		"something behind": {`"}`, `"} `},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Replace(body, edit[0], edit[1], 1)
			if got == body {
				t.Fatal("the edit changed nothing")
			}
			if _, _, err := parseEntry([]byte(got)); err == nil {
				t.Errorf("accepted: %s", got)
			}
		})
	}
}

// FuzzRecord: whatever is accepted is written the same way again, and nothing panics.
func FuzzRecord(f *testing.F) {
	for _, payload := range []string{`{"a":1}`, `"x"`, `null`, ` [1, 2]`, `"é\n"`} {
		line, _ := sampleLine(payload)
		f.Add(line)
	}
	f.Add(headerLine(segmentHeader{Version: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		body, n, err := cutLine(data)
		if err != nil {
			return
		}
		if got := headerBody(body); !bytes.Equal(got, data[:n]) {
			t.Fatalf("line %q is written as %q", data[:n], got)
		}
		e, fr, err := parseEntry(body)
		if err != nil {
			return
		}
		at := cursor{seq: e.Seq - 1, batch: fr.Batch, hash: strings.Repeat("0", 64)}
		again := appendEntry(nil, &at, fr.Part, fr.Parts, e.Time, e.Payload)
		if cut := n - 1 - hashFieldLen; !bytes.Equal(again[prefixLen:cut], data[prefixLen:cut]) {
			t.Fatalf("entry %q is written as %q", data[:n], again)
		}
	})
}
