// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

const measured = 3 * time.Second

// nothing is a fold that keeps nothing.
type nothing struct{}

func (nothing) Apply(journal.Entry) error { return nil }
func (nothing) Snapshot() ([]byte, error) { return []byte("{}"), nil }
func (nothing) Restore([]byte) error      { return nil }

// payload has the size of an operation's record.
func payload(n int) json.RawMessage {
	return fmt.Appendf(nil, `{"type":"step","step":{"id":"%022x","guest":"lxc/%d","state":"started","handle":"UPID:node1:%s"}}`,
		n, 100+n%10_000, strings.Repeat("0", 80))
}

// benchJournal has one writer take turns with a plain append and sync of the same bytes, so that whatever else the disk
// does disturbs both; then 64 writers.
func benchJournal(ctx context.Context, dir string) ([]figure, error) {
	j, _, err := journal.Open(ctx, journal.Options{Dir: filepath.Join(dir, "j"), Fold: nothing{}})
	if err != nil {
		return nil, err
	}
	raw, err := os.OpenFile(filepath.Join(dir, "raw"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	single, plain, err := besideRaw(ctx, j, raw)
	var many float64
	if err == nil {
		many, err = writers(ctx, j, 64)
	}
	if err := errors.Join(err, j.Close(), raw.Close()); err != nil {
		return nil, err
	}
	return []figure{
		more("journal, one writer", single, "appends/s", "append and fdatasync of as many bytes", plain),
		more("journal, 64 writers", many, "appends/s", "one writer (8 is wanted)", single),
	}, nil
}

func besideRaw(ctx context.Context, j *journal.Journal, raw *os.File) (single, plain float64, err error) {
	line := make([]byte, len(payload(0))+230) // an entry's frame, hash and time
	var ours, theirs time.Duration
	n := 0
	for ; ours+theirs < measured; n++ {
		begin := time.Now()
		if _, err := raw.Write(line); err != nil {
			return 0, 0, err
		}
		if err := syscall.Fdatasync(int(raw.Fd())); err != nil {
			return 0, 0, err
		}
		half := time.Now()
		if _, err := j.Append(ctx, payload(n)); err != nil {
			return 0, 0, err
		}
		theirs += half.Sub(begin)
		ours += time.Since(half)
	}
	return float64(n) / ours.Seconds(), float64(n) / theirs.Seconds(), nil
}

func writers(ctx context.Context, j *journal.Journal, width int) (float64, error) {
	var n atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for range width {
		g.Go(func() error {
			for time.Since(begin) < measured {
				if _, err := j.Append(ctx, payload(int(n.Add(1)))); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds(), err
}

// benchReopen opens a journal of 100,000 entries that no snapshot replaces, beside reading and hashing the same files.
func benchReopen(ctx context.Context, dir string) ([]figure, error) {
	const entries = 100_000
	o := journal.Options{Dir: filepath.Join(dir, "j"), Fold: nothing{}, CompactBytes: -1}
	if err := fill(ctx, o, entries); err != nil {
		return nil, err
	}
	begin := time.Now()
	j, rep, err := journal.Open(ctx, o)
	took := time.Since(begin)
	if err != nil {
		return nil, err
	}
	if err := j.Close(); err != nil || rep.Entries != entries {
		return nil, fmt.Errorf("%d entries were found: %w", rep.Entries, err)
	}
	begin = time.Now()
	names, err := filepath.Glob(filepath.Join(o.Dir, "seg-*"))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		_ = sha256.Sum256(data)
	}
	plain := time.Since(begin)
	return []figure{less("journal, reopen 100,000 entries", took.Seconds(), "s", "read and SHA-256 of the files", plain.Seconds())}, err
}

func fill(ctx context.Context, o journal.Options, entries int) error {
	j, _, err := journal.Open(ctx, o)
	if err != nil {
		return err
	}
	for n := 0; n < entries && err == nil; n += 100 {
		var batch []json.RawMessage
		for i := range 100 {
			batch = append(batch, payload(n+i))
		}
		_, err = j.Append(ctx, batch...)
	}
	return errors.Join(err, j.Close())
}

// benchLedger is the memory that 10,000 guests hold, each seen, settled and with a hook event, beside their JSON.
func benchLedger(context.Context, string) ([]figure, error) {
	const guests = 10_000
	before := held()
	led := ledger.New()
	d := &ledger.Desired{Provider: "dir", Revision: "r", Guests: map[guest.VMID]string{}}
	for v := guest.VMID(100); v < 100+guests; v++ {
		d.Guests[v] = fmt.Sprintf("%064d", v)
	}
	seq := uint64(0)
	apply := func(r ledger.Record) error {
		p, err := r.Encode()
		if err != nil {
			return err
		}
		seq++
		return led.Apply(journal.Entry{Seq: seq, Time: time.Now(), Payload: p})
	}
	err := apply(ledger.Record{Type: ledger.TypeDesired, Desired: d})
	for v, rev := range d.Guests {
		id := guest.ID{Kind: guest.LXC, VMID: v}
		o := &op.Op{ID: fmt.Sprintf("%022x", v), Asker: op.Reconciler, Guest: id, Kind: plugin.Start, State: op.Intent}
		err = errors.Join(err,
			apply(ledger.Record{Type: ledger.TypeSeen, Seen: &ledger.Seen{Guest: id, Incarnation: rev[:26]}}),
			apply(ledger.Record{Type: ledger.TypeOp, Op: o}),
			apply(ledger.Record{Type: ledger.TypeStep, Step: &ledger.Step{ID: o.ID, Guest: id, State: op.Succeeded}}),
			apply(ledger.Record{Type: ledger.TypeSettled, Settled: &ledger.Settled{VMID: v, Revision: rev}}))
	}
	after := held()
	snap, serr := led.Snapshot()
	return []figure{
		less("ledger, memory of 10,000 guests", (after-before)/(1<<20), "MiB", "their state as JSON", float64(len(snap))/(1<<20)),
	}, errors.Join(err, serr)
}

func held() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
