// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// recorded is one recorded write.
type recorded struct {
	ID       string            `json:"id"`
	Kind     guest.Kind        `json:"kind"`
	State    string            `json:"state"`
	As       string            `json:"as"`
	Key      string            `json:"key"`
	Note     string            `json:"note"`
	RawPut   json.RawMessage   `json:"put"`
	Put      map[string]string `json:"-"`
	Argv     []string          `json:"-"`
	Method   string            `json:"method"`
	Path     string            `json:"path"`
	Status   int               `json:"http_status"`
	Reason   string            `json:"reason"`
	Body     json.RawMessage   `json:"body"`
	Task     json.RawMessage   `json:"upid_task"`
	Before   map[string]any    `json:"config_before"`
	After    map[string]any    `json:"config_after"`
	Current  map[string]any    `json:"current_after"`
	Pending  []map[string]any  `json:"pending_after"`
	FileText string            `json:"conf_file_after"`
	Lab      string            `json:"lab"`
}

// decode reads JSON keeping numbers as they are written.
func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return d.Decode(into)
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// recordedWrites reads the recorded writes of one kind. The recorder broke one
// record of the containers over several lines (a description with U+2028);
// what is lost of it cannot be told, so it is left out and counted.
func recordedWrites(t testing.TB, kind guest.Kind) (list []recorded, broken int) {
	t.Helper()
	read := readOnce[kind == guest.QEMU]
	read.Do(func() { read.list, read.broken = readWrites(t, kind) })
	return read.list, read.broken
}

// readOnce keeps what was read, by whether it is of virtual machines.
var readOnce = map[bool]*struct {
	sync.Once
	list   []recorded
	broken int
}{false: {}, true: {}}

func readWrites(t testing.TB, kind guest.Kind) (list []recorded, broken int) {
	t.Helper()
	s := bufio.NewScanner(bytes.NewReader(testdata(t, "roundtrip/roundtrip-"+string(kind)+".jsonl.gz")))
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var r recorded
		if err := decode(s.Bytes(), &r); err != nil {
			if strings.HasPrefix(s.Text(), `{"id"`) {
				broken++
			}
			continue
		}
		r.readPut(t)
		list = append(list, r)
	}
	return list, broken
}

func (r *recorded) readPut(t testing.TB) {
	t.Helper()
	if r.Method == "CLI" {
		var cli struct{ Argv []string }
		if err := decode(r.RawPut, &cli); err != nil {
			t.Fatal(r.ID, err)
		}
		r.Argv = cli.Argv
		return
	}
	var any map[string]any
	if err := decode(r.RawPut, &any); err != nil {
		t.Fatal(r.ID, err)
	}
	r.Put = asText(any)
}

// asText is a map of JSON scalars as PVE's forms carry them.
func asText(m map[string]any) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = scalar(v)
	}
	return out
}

func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		if v {
			return "1"
		}
		return "0"
	}
	b, _ := json.Marshal(v)
	return string(b)
}

func (r *recorded) vmid() guest.VMID {
	if r.Kind == guest.QEMU {
		if r.State == "running" {
			return 821
		}
		return 820
	}
	if r.State == "running" {
		return 802
	}
	return 801
}
