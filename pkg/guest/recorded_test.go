// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// roundtrips is where the recorded round trips lie: the simulator replays them
// too.
const roundtrips = "../pve/pvetest/testdata/roundtrip/"

// record is one write to a real node and what its config was before and after.
type record struct {
	ID      string          `json:"id"`
	Kind    guest.Kind      `json:"kind"`
	State   string          `json:"state"`
	As      string          `json:"as"`
	Note    string          `json:"note"`
	PVE     int             `json:"pve"`
	Put     json.RawMessage `json:"put"`
	Path    string          `json:"path"`
	Status  int             `json:"http_status"`
	Reason  string          `json:"reason"`
	Lab     string          `json:"lab"`
	Body    json.RawMessage `json:"body"`
	Task    json.RawMessage `json:"upid_task"`
	Before  map[string]any  `json:"config_before"`
	After   map[string]any  `json:"config_after"`
	Current map[string]any  `json:"current_after"`
	Errors  map[string]any  `json:"errors"`
}

// write is the record as the table sees it.
type write struct {
	record
	desired       guest.Config
	del           []string
	before, after guest.Config
}

func (w write) facts() guest.Facts {
	pve := w.PVE
	if pve == 0 {
		pve = 8
	}
	return guest.Facts{Kind: w.Kind, Running: w.State == "running", PVE: pve}
}

// parameters of a write that are no config keys.
var parameters = map[string]bool{"delete": true, "digest": true, "revert": true, "force": true, "skiplock": true, "background_delay": true}

func recorded(t testing.TB) []write {
	t.Helper()
	loadOnce.Do(func() {
		for _, name := range []string{roundtrips + "roundtrip-lxc.jsonl.gz", roundtrips + "roundtrip-qemu.jsonl.gz"} {
			loaded = append(loaded, readWrites(t, name)...)
		}
	})
	return slices.Clip(loaded)
}

// loaded are the recordings, read once for all tests and never changed.
var (
	loadOnce sync.Once
	loaded   []write
)

func readWrites(t testing.TB, name string) []write {
	t.Helper()
	var out []write
	for _, line := range readLines(t, name) {
		r, err := decodeRecord(line)
		if err != nil {
			t.Fatalf("%s: %v: %.80s", name, err, line)
		}
		out = append(out, toWrite(r))
	}
	return out
}

// readLines reads one JSON object a line. The recorder broke one line at a line
// separator inside a string: what does not begin an object belongs to the line
// before.
func readLines(t testing.TB, name string) [][]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	sc := bufio.NewScanner(z)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := bytes.Clone(sc.Bytes())
		if bytes.HasPrefix(line, []byte("{")) || len(out) == 0 {
			out = append(out, line)
			continue
		}
		out[len(out)-1] = append(append(out[len(out)-1], `\n`...), line...)
	}
	if sc.Err() != nil {
		t.Fatal(sc.Err())
	}
	return out
}

// decodeRecord decodes field by field, because the broken line also lost its
// end: the fields before that are whole.
func decodeRecord(line []byte) (record, error) {
	var r record
	dec := json.NewDecoder(bytes.NewReader(line))
	if _, err := dec.Token(); err != nil {
		return r, err
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		name, err := dec.Token()
		var value json.RawMessage
		if err == nil {
			err = dec.Decode(&value)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return r, err
		}
		fields[fmt.Sprint(name)] = value
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return r, err
	}
	dec = json.NewDecoder(bytes.NewReader(whole))
	dec.UseNumber()
	return r, dec.Decode(&r)
}

func toWrite(r record) write {
	w := write{record: r, desired: guest.Config{}, before: toConfig(r.Before), after: toConfig(r.After)}
	var put map[string]string
	_ = json.Unmarshal(r.Put, &put) // a command line has no parameters
	for key, value := range put {
		if !parameters[key] {
			w.desired[key] = value
		}
	}
	w.del = strings.FieldsFunc(put["delete"], func(r rune) bool { return strings.ContainsRune(",; ", r) })
	return w
}

func toConfig(m map[string]any) guest.Config {
	c := guest.Config{}
	for key, value := range m {
		if key != "digest" && key != "lxc" {
			c[key] = fmt.Sprint(value)
		}
	}
	return c
}

// accepted reports whether PVE took the write: the answer says so, and the
// task too if there was one.
func (w write) accepted() bool {
	var task struct {
		Exit string `json:"exitstatus"`
	}
	_ = json.Unmarshal(w.Task, &task) // null: no task
	return w.Status == 200 && w.Path == "" && (task.Exit == "" || task.Exit == "OK") && len(w.desired)+len(w.del) > 0
}

// errors is what PVE said was wrong, by parameter.
func (w write) errors() map[string]string {
	var body struct {
		Errors map[string]string `json:"errors"`
	}
	_ = json.Unmarshal(w.Body, &body) // some bodies are no objects
	for key, value := range w.Errors {
		if body.Errors == nil {
			body.Errors = map[string]string{}
		}
		body.Errors[key] = fmt.Sprint(value)
	}
	return body.Errors
}
