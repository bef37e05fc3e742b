// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

// event is a valid event with an id of its own.
func event(n string) Event {
	return Event{
		ID:    "9a34de92-6677-4932-b75d-04e80f6ebf46.0000000000000000" + n + ".4711",
		VMID:  101,
		Phase: id.PreStart,
		Time:  1_795_420_639_999_403_700,
		Boot:  "9a34de92-6677-4932-b75d-04e80f6ebf46",
	}
}

func TestNewIsValidAndUnique(t *testing.T) {
	a, b := New(101, id.PostStop, "pve-2"), New(101, id.PostStop, "")
	for _, e := range []Event{a, b} {
		if err := e.Validate(); err != nil {
			t.Errorf("%+v: %v", e, err)
		}
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if a.Boot != strings.TrimSpace(string(boot)) {
		t.Errorf("boot %q, want %q", a.Boot, boot)
	}
	if a.ID >= b.ID {
		t.Errorf("ids do not sort by time: %s, %s", a.ID, b.ID)
	}
	if a.Time > b.Time || a.MigratedFrom != "pve-2" {
		t.Errorf("got %+v, %+v", a, b)
	}
}

func TestBootIDThatCannotBeRead(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "short": "9a34de92", "not an id": strings.Repeat("/", 36) + "\n",
	} {
		path := filepath.Join(t.TempDir(), "boot_id")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := bootID(path); got != unknownBoot || !validBoot(got) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := bootID("/nonexistent"); got != unknownBoot {
		t.Errorf("absent: %q", got)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	for field, spoil := range map[string]func(*Event){
		"hook: id: ":            func(e *Event) { e.ID = "../../etc/passwd" },
		"hook: id: want 1":      func(e *Event) { e.ID = "" },
		"hook: id: want":        func(e *Event) { e.ID = ".hidden" },
		"hook: id":              func(e *Event) { e.ID = strings.Repeat("a", 129) },
		"hook: vmid: ":          func(e *Event) { e.VMID = 99 },
		"hook: vmid: want":      func(e *Event) { e.VMID = 1_000_000_000 },
		"hook: phase: ":         func(e *Event) { e.Phase = "pre-migrate" },
		"hook: time: ":          func(e *Event) { e.Time = 0 },
		"hook: boot: ":          func(e *Event) { e.Boot = "" },
		"hook: boot: want":      func(e *Event) { e.Boot = strings.Repeat("/", 36) },
		"hook: migrated_from: ": func(e *Event) { e.MigratedFrom = "a\"b" },
		"hook: migrated_from":   func(e *Event) { e.MigratedFrom = strings.Repeat("a", 64) },
	} {
		e := event("0001")
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&e)
		if err := e.Validate(); !errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%+v: %v, want %q and an ErrInvalid", e, err, field)
		}
	}
}

func TestJSONIsThatOfEncodingJSON(t *testing.T) {
	for _, node := range []string{"", "pve1", "a-b"} {
		e := event("0001")
		e.MigratedFrom = node
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.AppendJSON(nil); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got, err := Parse(want); err != nil || got != e {
			t.Errorf("Parse: %v\n%s", err, cmp.Diff(e, got))
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	good := string(event("0001").AppendJSON(nil))
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for name, tt := range map[string]struct {
		in   string
		want string // part of the error; empty: accepted
	}{
		"as written":          {good, ""},
		"white space":         {"\n " + replace(`,"phase":`, " ,\t\"phase\" :\r\n ") + " \n", ""},
		"nothing":             {"", "want an object"},
		"an array":            {"[" + good + "]", "want an object"},
		"an empty object":     {"{}", "want a field"},
		"a second value":      {good + good, "nothing after it"},
		"a byte after":        {good + "\x00", "nothing after it"},
		"cut":                 {good[:len(good)-1], "the end of the object"},
		"trailing comma":      {replace("}", ",}"), "want a field"},
		"unknown field":       {replace(`{`, `{"extra":1,`), `"extra": no such field`},
		"another case":        {replace(`"vmid"`, `"VMID"`), `"VMID": no such field`},
		"a field twice":       {replace(`{`, `{"vmid":102,`), "vmid: given twice"},
		"a missing field":     {replace(`"vmid":101,`, ``), "vmid: want a number from 100"},
		"a string for number": {replace(`101`, `"101"`), "vmid: want a whole number"},
		"a fraction":          {replace(`101`, `101.5`), "the end of the object"},
		"an exponent":         {replace(`101`, `1e3`), "the end of the object"},
		"a leading zero":      {replace(`101`, `0101`), "vmid: want a whole number"},
		"a number too large":  {replace(`101`, `99999999999999999999`), "vmid: want a whole number"},
		"a number for string": {replace(`"pre-start"`, `1`), "phase: want a string"},
		"null":                {replace(`"pre-start"`, `null`), "phase: want a string"},
		"an escape":           {replace(`pre-start`, `pre\u002dstart`), "phase: want a string without escapes"},
		"not ASCII":           {replace(`pre-start`, `pré-start`), "phase: want a string"},
		"an unknown phase":    {replace(`pre-start`, `pre-boot`), "phase: want pre-start"},
		"too long":            {good + strings.Repeat(" ", MaxSize), "at most 1024 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tt.in))
			if tt.want == "" {
				if err != nil || got != event("0001") {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an ErrInvalid with %q", err, tt.want)
			}
			if got != (Event{}) {
				t.Errorf("got %+v beside an error", got)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(event("0001").AppendJSON(nil))
	f.Add([]byte(`{"vmid":100}`))
	f.Add([]byte(`{"id":"a","vmid":-0,"vmid":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || e != (Event{}) {
				t.Fatalf("%+v, %v", e, err)
			}
			return
		}
		again, err := Parse(e.AppendJSON(nil))
		if err != nil || again != e {
			t.Fatalf("%+v reads back as %+v, %v", e, again, err)
		}
		var std Event
		if err := json.Unmarshal(data, &std); err != nil || std != e {
			t.Fatalf("encoding/json reads %+v, %v from %q; Parse %+v", std, err, data, e)
		}
	})
}
