// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress is how far a delivery has come.
type progress string

const (
	nothing progress = "nothing"
	begun   progress = "begun"
	done    progress = "done"
)

// record is a file with one line for each step of each delivery:
//
//	begun 01JD.../1
//	done 01JD.../1
//
// The last line of a key counts. It may be cut back when nobody will ask again
// for what it holds: the agent asks about the last days at most.
type record struct{ path string }

// lock waits for the other processes of this plugin, and for the other calls
// of this one. It returns when ctx ends.
func (r *record) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(r.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // which unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-retry.C:
		}
	}
}

// read says how far key has come.
func (r *record) read(key string) (progress, error) {
	state := nothing
	err := eachLine(r.path, func(line string) {
		if what, k, ok := strings.Cut(line, " "); ok && k == key {
			state = progress(what)
		}
	})
	return state, err
}

// write adds a line, and returns when it is on disk.
func (r *record) write(p progress, key string) error {
	return appendLine(r.path, string(p)+" "+key)
}

// eachLine calls f for each whole line of a file. One that is not there has
// none.
func eachLine(path string, f func(line string)) error {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReader(file)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) { // what has no line end was cut off by a crash
			return nil
		}
		if err != nil {
			return err
		}
		f(strings.TrimSuffix(line, "\n"))
	}
}

// appendLine adds a line to a file and syncs it. What a crash has left at its
// end without a line end is closed first.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Sync()
}
