// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The payloads of the benchmarks have the size of an operation's record.
func benchPayload(n int) json.RawMessage {
	return fmt.Appendf(nil, `{"op":"01J0000000%012d","guest":%d,"state":"started","upid":"UPID:node1:%s"}`, n, n%10_000, strings.Repeat("0", 80))
}

// nothing is a fold that keeps nothing.
type nothing struct{}

func (nothing) Apply(Entry) error         { return nil }
func (nothing) Snapshot() ([]byte, error) { return []byte("{}"), nil }
func (nothing) Restore([]byte) error      { return nil }

func benchOpen(b *testing.B, fold Fold) *Journal {
	b.Helper()
	j, _, err := Open(b.Context(), Options{Dir: b.TempDir(), Fold: fold})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := j.Close(); err != nil {
			b.Error(err)
		}
	})
	return j
}

// rawAppend returns what there is to beat: the same bytes appended and synced, and nothing else.
func rawAppend(b *testing.B) func() {
	b.Helper()
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "raw"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	at := cursor{hash: genesis("", "")}
	line := appendEntry(nil, &at, 1, 1, sampleTime, benchPayload(1))
	return func() {
		if _, err := f.Write(line); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRaw(b *testing.B) {
	add := rawAppend(b)
	for b.Loop() {
		add()
	}
	perSecond(b)
}

// BenchmarkAppendBesideRaw takes turns, so that whatever else the disk does disturbs both; the aim is a ratio of 0.8.
func BenchmarkAppendBesideRaw(b *testing.B) {
	raw, j := rawAppend(b), benchOpen(b, nothing{})
	var rawTime, ours time.Duration
	for n := 0; b.Loop(); n++ {
		begin := time.Now()
		raw()
		half := time.Now()
		if _, err := j.Append(b.Context(), benchPayload(n)); err != nil {
			b.Fatal(err)
		}
		rawTime += half.Sub(begin)
		ours += time.Since(half)
	}
	b.ReportMetric(float64(rawTime)/float64(ours), "of-raw")
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
}

// BenchmarkAppend is one writer; the aim is 0.8 of BenchmarkRaw.
func BenchmarkAppend(b *testing.B) {
	j := benchOpen(b, nothing{})
	for n := 0; b.Loop(); n++ {
		if _, err := j.Append(b.Context(), benchPayload(n)); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b)
}

// BenchmarkAppend64 is 64 writers at once; the aim is 8 times BenchmarkAppend.
func BenchmarkAppend64(b *testing.B) {
	j := benchOpen(b, nothing{})
	var next atomic.Int64
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := j.Append(b.Context(), benchPayload(int(next.Add(1)))); err != nil {
				b.Error(err)
			}
		}
	})
	perSecond(b)
}

// BenchmarkReopen opens a journal of 100,000 entries that no snapshot replaces.
func BenchmarkReopen(b *testing.B) {
	const entries = 100_000
	o := Options{Dir: b.TempDir(), Fold: nothing{}, CompactBytes: -1}
	j, _, err := Open(b.Context(), o)
	if err != nil {
		b.Fatal(err)
	}
	for n := 0; n < entries; n += 100 {
		var batch []json.RawMessage
		for i := range 100 {
			batch = append(batch, benchPayload(n+i))
		}
		if _, err := j.Append(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		j, report, err := Open(b.Context(), o)
		if err != nil || report.Entries != entries {
			b.Fatalf("%d entries, %v", report.Entries, err)
		}
		if err := j.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(entries*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

// fill appends 100,000 entries. What it needs for that is garbage when it returns.
func fill(b *testing.B, j *Journal) {
	var batch []json.RawMessage
	for n := range 1000 {
		batch = append(batch, benchPayload(n))
	}
	for range 100 {
		if _, err := j.Append(b.Context(), batch...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMemory is what an open journal of 100,000 entries holds itself, without the fold.
func BenchmarkMemory(b *testing.B) {
	j := benchOpen(b, nothing{})
	fill(b, j)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
	}
	j.buf, j.segments = nil, nil
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(before.HeapAlloc)-float64(after.HeapAlloc), "B-held")
	runtime.KeepAlive(j)
}
