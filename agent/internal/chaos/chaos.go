// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package chaos holds plugins that misbehave, and says whether the host
// contains each (promise P8).
//
// A row is one misbehaviour. It is tried by a real process, started by the
// real host beside two neighbours that behave: an executor and a provider.
// Contained means all of this: the neighbours answer all the time, not
// noticeably slower than before; the operator is told what is wrong; the host
// ends; and nothing is left of it, no process, file, descriptor or goroutine.
// What a machine cannot try is skipped with the reason and counts for nothing.
//
// The quick rows are Go tests; `make chaos` runs them all and prints a table.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Row is one misbehaviour.
type Row struct {
	Name string
	// Quick rows take a few seconds at most.
	Quick bool
	// Unprivileged rows need a user whom the kernel's limits bind.
	Unprivileged bool
	// StartTimeout is the host's for this row; 0 is one that no machine misses.
	StartTimeout time.Duration
	// Run tries it. It returns what the operator is told, or what was not
	// contained.
	Run func(ctx context.Context, b *Bed) (told string, err error)
}

// ErrSkip is returned by a row that cannot be tried here.
var ErrSkip = errors.New("skipped")

// Result is what became of a row.
type Result struct {
	Row  Row
	Told string
	// Neighbour is the neighbours' latency before and during the row.
	Before, During Latency
	Err            error
	Took           time.Duration
}

// Contained says whether the row was tried and held.
func (r Result) Contained() bool { return r.Err == nil }

// Skipped says whether it could not be tried.
func (r Result) Skipped() bool { return errors.Is(r.Err, ErrSkip) }

// Env is what the rows need of their surroundings.
type Env struct {
	// Self is the program that is the plugin when its first argument says so.
	Self string
	// Dir is an empty directory with a short name that only the user may write.
	Dir string
	// Bin holds the agent's programs; "" if there are none.
	Bin string
	// Log takes the host's log.
	Log io.Writer
	// Strict also judges the neighbours' latency, which a loaded machine may
	// spoil.
	Strict bool
}

// patience ends what hangs. It decides nothing: a loaded machine may take long.
const patience = 5 * time.Minute

// Try runs one row.
func (e Env) Try(ctx context.Context, row Row) Result {
	begin := time.Now()
	res := Result{Row: row}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	before := takeStock(e.Dir)
	res.Err = func() error {
		b, err := newBed(ctx, e, row)
		if err != nil {
			return err
		}
		res.Told, err = row.Run(ctx, b)
		b.measured()
		res.Before, res.During = b.before, b.during
		err = errors.Join(err, b.neighbours(e.Strict))
		return errors.Join(err, b.close())
	}()
	if left := before.compare(ctx, takeStockOf(e.Dir)); left != "" {
		res.Err = errors.Join(res.Err, fmt.Errorf("left behind: %s", left))
	}
	res.Took = time.Since(begin)
	return res
}

// Rows are all of them, in the order of the table.
func Rows() []Row {
	var all []Row
	for _, some := range [][]Row{startRows, callRows, resourceRows, fileRows, ruleRows, agentRows} {
		all = append(all, some...)
	}
	return all
}

// clean empties the directory of a row.
func (e Env) clean() error {
	all, err := filepath.Glob(filepath.Join(e.Dir, "*"))
	for _, path := range all {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
