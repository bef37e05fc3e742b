// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

const (
	// A full disk is looked at again after probeMin, then less and less often up to probeMax.
	probeMin = time.Second
	probeMax = 30 * time.Second
	// probeBytes is the space that must be there for the journal to call itself writable again.
	probeBytes = 256 << 10
	probeName  = "probe" + fsys.TempSuffix
)

// Head is the last entry that is on disk and folded.
func (j *Journal) Head() Head {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head
}

// View calls f under the journal's lock, so that the fold stands still. f must be short and must not call the journal.
func (j *Journal) View(f func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f()
}

// Err is nil while the journal can be written, else a *WriteError. ErrFull goes away by itself; ErrFailed and
// ErrDamaged stay until the journal is opened anew.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil {
		return nil
	}
	return j.err
}

// Ready waits while the disk is full. It returns nil when the journal can be written, the error if that will not come
// by waiting, or ctx's cause.
func (j *Journal) Ready(ctx context.Context) error {
	for {
		j.mu.Lock()
		err, changed := j.err, j.changed
		j.mu.Unlock()
		if err == nil {
			return nil
		}
		if !errors.Is(err.Kind, ErrFull) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// setErr notes the state and wakes those who wait for it to change. The caller holds mu.
func (j *Journal) setErr(err *WriteError) {
	if err == nil && j.err == nil {
		return
	}
	j.err = err
	close(j.changed)
	j.changed = make(chan struct{})
}

// stop notes why nothing can be written and, if that may heal, begins to look for it. The caller holds write.
func (j *Journal) stop(err *WriteError) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err == nil || !errors.Is(j.err.Kind, err.Kind) {
		j.o.Logger.Error("journal cannot be written; nothing is changed on guests until it can", "err", err)
		j.setErr(&WriteError{Kind: err.Kind, Err: err.Err})
	}
	if errors.Is(err.Kind, ErrFull) && !j.probing {
		j.probing = true
		j.background.Go(j.probe)
	}
}

// probe waits for space. It ends when the journal can be written again, or never can, or is closed.
func (j *Journal) probe() {
	for wait := probeMin; ; wait = min(2*wait, probeMax) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-j.closing:
			timer.Stop()
			return
		}
		if j.acquire(context.Background(), j.write) != nil { // ends with Close
			return
		}
		done := j.probeOnce()
		<-j.write
		if done {
			return
		}
	}
}

// probeOnce tries whether there is space and reports whether probing is over. The caller holds write.
func (j *Journal) probeOnce() bool {
	err := j.writable()
	if err == nil {
		err = j.probeSpace()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err == nil && j.err != nil:
		j.o.Logger.Info("journal can be written again")
		j.setErr(nil)
	case err != nil && !errors.Is(err.Kind, ErrFull) && !errors.Is(err.Kind, j.err.kind()):
		j.o.Logger.Error("journal cannot be written", "err", err)
		j.setErr(err)
	case err != nil && errors.Is(err.Kind, ErrFull):
		return false
	}
	j.probing = false
	return true
}

func (e *WriteError) kind() error {
	if e == nil {
		return nil
	}
	return e.Kind
}

// probeSpace writes a file that nobody needs and removes it.
func (j *Journal) probeSpace() *WriteError {
	name := j.path(probeName)
	f, err := j.o.FS.OpenFile(opProbe, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, filePerm)
	if err != nil {
		return &WriteError{Kind: ErrFull, Err: err}
	}
	_, err = f.Write(make([]byte, probeBytes))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close(), j.o.FS.Remove(opProbe, name)); err != nil {
		return &WriteError{Kind: ErrFull, Err: err}
	}
	return nil
}

// acquire takes a right that is given back by receiving from its channel.
func (j *Journal) acquire(ctx context.Context, right chan struct{}) error {
	select {
	case <-j.closing:
		return &WriteError{Kind: ErrClosed}
	default:
	}
	select {
	case right <- struct{}{}:
		return nil
	case <-j.closing:
		return &WriteError{Kind: ErrClosed}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
