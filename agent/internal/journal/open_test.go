// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

var firstSegment = filepath.Join(dir, segmentName(1))

// ends are the offsets after each line of a segment.
func ends(data []byte) (out []int) {
	for i, c := range data {
		if c == '\n' {
			out = append(out, i+1)
		}
	}
	return out
}

// TestTornTailIsCutAtEveryByte cuts the file at every byte, and fills what is missing with zeros, as a file system may.
func TestTornTailIsCutAtEveryByte(t *testing.T) {
	f := filled(t, 3, 10, nil)
	data := f.Content(firstSegment)
	lines := ends(data) // header, then two lines for each batch
	for cut := lines[0]; cut < len(data); cut++ {
		for _, zeros := range []int{0, 50}[:1+(cut+1)%2] {
			torn := append(data[:cut:cut], make([]byte, zeros)...)
			whole := 0
			for whole < 3 && lines[2*whole+2] <= cut {
				whole++
			}
			g := f.Clone()
			g.SetContent(firstSegment, torn)
			if report := mustCheck(t, g); report.Head.Seq != uint64(2*whole) {
				t.Errorf("cut at %d: check finds entry %d last", cut, report.Head.Seq)
			}
			reopenTorn(t, g, whole, len(torn)-lines[2*whole])
		}
	}
}

// reopenTorn opens a journal of which so many batches are whole and so many bytes are to be cut.
func reopenTorn(t *testing.T, f *fault.FS, batches, cut int) {
	t.Helper()
	fold := &texts{}
	j, report, err := Open(t.Context(), options(f, fold))
	if err != nil || j.Err() != nil {
		t.Fatalf("%d batches, %d bytes to cut: %v, %v", batches, cut, err, j.Err())
	}
	wantTexts(t, fold, 2*batches, 10)
	wantWarnings := min(cut, 1)
	if report.CutBytes != int64(cut) || len(report.Warnings) != wantWarnings || report.Head.Seq != uint64(2*batches) {
		t.Errorf("%d batches, %d bytes to cut: %+v", batches, cut, report)
	}
	mustAppend(t, j, payloads(2*batches+1, 2*batches+2, 10)...)
	mustClose(t, j)
	again := &texts{}
	j, report, err = Open(t.Context(), options(f, again))
	if err != nil || len(report.Warnings) > 0 {
		t.Fatalf("%v, %+v", err, report)
	}
	wantTexts(t, again, 2*batches+2, 10)
	mustClose(t, j)
}

// TestEveryChangedByteIsFound flips each bit pattern of each byte once: in the last batch it is torn, before it damage.
func TestEveryChangedByteIsFound(t *testing.T) {
	f := filled(t, 3, 10, nil)
	data := f.Content(firstSegment)
	lines := ends(data)
	for i := range data {
		g := f.Clone()
		bad := slices.Clone(data)
		bad[i] ^= 1 << (i % 8)
		g.SetContent(firstSegment, bad)
		fold := &texts{}
		j, report, err := Open(t.Context(), options(g, fold))
		if errors.Is(err, ErrHost) || errors.Is(err, ErrVersion) {
			t.Errorf("byte %d: the checksum was not looked at: %v", i, err)
			continue
		}
		if err != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		if i >= lines[4] { // in the last batch
			if j.Err() != nil || report.CutBytes != int64(len(data)-lines[4]) {
				t.Errorf("byte %d: %v, %+v", i, j.Err(), report)
			}
		} else {
			wantDamage(t, fmt.Sprintf("byte %d", i), j, report)
			if !bytes.Equal(g.Content(firstSegment), bad) {
				t.Errorf("byte %d: the damaged file was changed", i)
			}
			if check, err := Check(g, dir); err != nil || check.OK() {
				t.Errorf("byte %d: the checker finds nothing", i)
			}
		}
		mustClose(t, j)
	}
}

// wantDamage wants a journal that is read-only and says why, to the caller and the operator.
func wantDamage(t *testing.T, when string, j *Journal, report Report) {
	t.Helper()
	var damage *DamageError
	if !errors.Is(j.Err(), ErrDamaged) || !errors.As(report.Damage, &damage) {
		t.Errorf("%s: err %v, damage %v", when, j.Err(), report.Damage)
		return
	}
	for _, err := range []error{j.Err(), j.Ready(t.Context()), func() error { _, err := j.Append(t.Context(), payload(1, 1)); return err }()} {
		if !errors.Is(err, ErrReadOnly) || errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "felhom-agent journal check") {
			t.Errorf("%s: %v", when, err)
		}
	}
}

func TestDamage(t *testing.T) {
	three := func(o *Options) { o.SegmentBytes = 600 }
	for name, c := range map[string]struct {
		spoil func(f *fault.FS, segments []string)
		// kept is how many entries are still folded.
		kept int
	}{
		"a line is missing": {func(f *fault.FS, s []string) {
			data := f.Content(s[0])
			lines := ends(data)
			f.SetContent(s[0], slices.Concat(data[:lines[0]], data[lines[1]:]))
		}, 0},
		"two batches are swapped": {func(f *fault.FS, s []string) {
			d := f.Content(s[0])
			l := ends(d)
			f.SetContent(s[0], slices.Concat(d[:l[0]], d[l[2]:l[4]], d[l[0]:l[2]], d[l[4]:]))
		}, 0},
		"the end of a segment is missing": {func(f *fault.FS, s []string) {
			d := f.Content(s[0])
			l := ends(d)
			f.SetContent(s[0], d[:l[len(l)-3]])
		}, 2},
		"something follows a segment's end": {func(f *fault.FS, s []string) {
			f.SetContent(s[0], append(f.Content(s[0]), "x\n"...))
		}, 4},
		"the first segment is missing": {func(f *fault.FS, s []string) { _ = f.Remove("T", s[0]) }, 0},
		"a middle segment is missing":  {func(f *fault.FS, s []string) { _ = f.Remove("T", s[1]) }, 4},
		"a segment is empty":           {func(f *fault.FS, s []string) { f.SetContent(s[2], nil) }, 8},
		"a segment is another's copy":  {func(f *fault.FS, s []string) { f.SetContent(s[1], f.Content(s[0])) }, 4},
		"a segment of another journal": {func(f *fault.FS, s []string) {
			f.SetContent(s[1], filled(t, 9, 10, three).Content(s[1]))
		}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			f := filled(t, 6, 10, three)
			files, err := list(f, "T", dir, false)
			if err != nil || len(files.segments) < 3 {
				t.Fatalf("%+v, %v", files, err)
			}
			var segments []string
			for _, s := range files.segments {
				segments = append(segments, filepath.Join(dir, s.name))
			}
			c.spoil(f, segments)
			fold := &texts{}
			j, report, err := Open(t.Context(), options(f, fold))
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			wantDamage(t, name, j, report)
			wantTexts(t, fold, c.kept, 10)
			if check, err := Check(f, dir); err != nil || check.OK() {
				t.Errorf("the checker finds nothing: %v", err)
			}
		})
	}
}

// TestBatchesInFlightTogetherWouldReadAsDamage shows why a batch is written only after the sync of the one before: with
// two in flight, an honest power cut that keeps the later one looks like damage.
func TestBatchesInFlightTogetherWouldReadAsDamage(t *testing.T) {
	f := filled(t, 4, 300, nil)
	data := f.Content(firstSegment)
	lines := ends(data)
	clear(data[lines[4]:lines[5]]) // the page of the third batch was lost, the fourth is there
	f.SetContent(firstSegment, data)
	j, report, err := Open(t.Context(), options(f, &texts{}))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	wantDamage(t, "later batch", j, report)
}

func TestRefusals(t *testing.T) {
	f := filled(t, 2, 10, nil)
	edit := func(name, old, new string) {
		body, _, err := cutLine(f.Content(name))
		if err != nil {
			t.Fatal(err)
		}
		rest := f.Content(name)[prefixLen+len(body)+1:]
		f.SetContent(name, append(headerBody([]byte(strings.Replace(string(body), old, new, 1))), rest...))
	}
	before := f.Content(firstSegment)
	for name, c := range map[string]struct {
		old, new string
		want     error
		text     string
	}{
		"newer version": {`"felhom-journal":1`, `"felhom-journal":2,"more":[]`, ErrVersion, "reads up to 1"},
		"another host":  {`"host":"h"`, `"host":"other"`, ErrDamaged, ""},
	} {
		t.Run(name, func(t *testing.T) {
			edit(firstSegment, c.old, c.new)
			spoiled := f.Content(firstSegment)
			j, _, err := Open(t.Context(), options(f, &texts{}))
			if j != nil {
				err = j.Err()
				defer j.Close()
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			if !bytes.Equal(f.Content(firstSegment), spoiled) {
				t.Error("it was changed")
			}
			f.SetContent(firstSegment, before)
		})
	}
	o := options(f, &texts{})
	o.Host = "elsewhere"
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), `"elsewhere"`) {
		t.Errorf("a cloned host: %v", err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	for _, f := range []fsys.FS{fault.New(), fsys.OS{}} {
		o := Options{FS: f, Dir: t.TempDir(), Fold: &texts{}, Host: "node1", CompactBytes: -1}
		j, _, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Open(t.Context(), o)
		if !errors.Is(err, fsys.ErrLocked) || !strings.Contains(err.Error(), "pid ") || !strings.Contains(err.Error(), "on node1") {
			t.Errorf("second: %v", err)
		}
		mustAppend(t, j, payload(1, 1))
		mustClose(t, j)
		o.Fold = &texts{}
		if j, _, err = Open(t.Context(), o); err != nil {
			t.Fatalf("after the first ended: %v", err)
		}
		mustClose(t, j)
	}
}

func TestLeftoversAndStrangers(t *testing.T) {
	f := filled(t, 1, 10, nil)
	f.SetContent(filepath.Join(dir, segmentName(9)+fsys.TempSuffix), []byte("half"))
	f.SetContent(filepath.Join(dir, "notes.txt"), []byte("mine"))
	_, report := mustOpen(t, options(f, &texts{}))
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "notes.txt") {
		t.Errorf("warnings %q", report.Warnings)
	}
	names := strings.Join(f.Names(), " ")
	if strings.Contains(names, fsys.TempSuffix) || !strings.Contains(names, "notes.txt") {
		t.Errorf("files: %s", names)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := DefaultOptions("/d", &texts{})
	if err := good.validate(); err != nil {
		t.Error(err)
	}
	for field, spoil := range map[string]func(*Options){
		"Dir":          func(o *Options) { o.Dir = "" },
		"Fold":         func(o *Options) { o.Fold = nil },
		"SegmentBytes": func(o *Options) { o.SegmentBytes = -1 },
		"MaxPayload":   func(o *Options) { o.MaxPayload = 1 << 30 },
	} {
		o := good
		spoil(&o)
		if _, _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// FuzzReplay: any bytes in place of the entries are a valid prefix, cut or damaged, and never more than was there.
func FuzzReplay(f *testing.F) {
	at := cursor{hash: genesis("id", "h")}
	header := headerLine(segmentHeader{Version: 1, ID: "id", Host: "h", First: 1, Prev: at.hash})
	var body []byte
	for n := range 6 {
		at.batch = uint64(n/2 + 1)
		body = appendEntry(body, &at, n%2+1, 2, sampleTime, payload(n+1, 5))
	}
	base := fault.New()
	if err := base.MkdirAll("T", dir, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add(body[:len(body)/2])
	f.Add(slices.Concat(body[:100], body[101:]))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := base.Clone()
		g.SetContent(firstSegment, slices.Concat(header, data))
		fold := &texts{}
		j, report, err := Open(t.Context(), options(g, fold))
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		common := 0
		for common < len(data) && common < len(body) && data[common] == body[common] {
			common++
		}
		if whole := bytes.Count(body[:common], []byte{'\n'}) / 2 * 2; len(fold.Got) < whole {
			t.Fatalf("%d entries, %d were whole", len(fold.Got), whole)
		}
		check, err := Check(g, dir)
		if err != nil || check.OK() != (report.Damage == nil) || check.Head != report.Head {
			t.Fatalf("check %+v, %v; open %+v", check, err, report)
		}
		if j.Err() == nil {
			if _, err := j.Append(t.Context(), payload(1, 1)); err != nil && !errors.Is(err, ErrUnknown) {
				t.Fatal(err)
			}
		}
	})
}
