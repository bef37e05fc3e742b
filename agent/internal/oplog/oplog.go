// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package oplog writes the audit log: what the journal records, as lines for
// people and log collectors, in a file that is rotated.
//
// It guarantees that it never holds up what it tells about, and that its files
// stay within a bound. It is a copy: the journal is the truth, and what was
// recorded while nothing could be written here is in the journal only.
package oplog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
)

// The bounds of the audit log: at most MaxFiles+1 files of MaxMegabytes each,
// the older ones compressed.
const (
	MaxMegabytes = 10
	MaxFiles     = 9
)

// source gives the records after a sequence number that are in memory, and a
// channel that is closed at the next one.
type source interface {
	Since(seq uint64) ([]ledger.Entry, <-chan struct{})
}

// Log is an open audit log.
type Log struct {
	out io.WriteCloser
	log *slog.Logger
	bad bool // the last write failed, which was logged
}

// Open makes DIR/audit.log ready, with mode 0640 less the umask: 0600 under the
// shipped unit. What is rotated keeps the mode.
func Open(dir string, log *slog.Logger) (*Log, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	path := filepath.Join(dir, "audit.log")
	// lumberjack keeps the mode of a file that exists and makes others 0600.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return &Log{log: log, out: &lumberjack.Logger{
		Filename: path, MaxSize: MaxMegabytes, MaxBackups: MaxFiles, Compress: true,
	}}, nil
}

// Run writes what is recorded after seq until ctx ends, and then what is left.
func (l *Log) Run(ctx context.Context, src source, seq uint64) {
	for {
		entries, more := src.Since(seq)
		for _, e := range entries {
			l.write(e)
			seq = e.Seq
		}
		select {
		case <-more:
		case <-ctx.Done():
			entries, _ := src.Since(seq)
			for _, e := range entries {
				l.write(e)
			}
			return
		}
	}
}

func (l *Log) write(e ledger.Entry) {
	_, err := io.WriteString(l.out, Line(e))
	if err != nil && !l.bad {
		l.log.Warn("the audit log cannot be written; the journal has it all", "err", err)
	}
	l.bad = err != nil
}

// Line is one record as a line: time, sequence number, guest, text.
func Line(e ledger.Entry) string {
	who := "-"
	if v := e.Record.VMID(); v != 0 {
		who = v.String()
	}
	return fmt.Sprintf("%s %d %s %s\n", e.Time.UTC().Format(time.RFC3339Nano), e.Seq, who, oneLine(e.Record.Text()))
}

// oneLine keeps a record's text from looking like several records.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' { // those two end lines as well
			return ' '
		}
		return r
	}, s)
}

// Close closes the file.
func (l *Log) Close() error { return l.out.Close() }
