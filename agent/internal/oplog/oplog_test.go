// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package oplog

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestEveryRecordIsOneLine(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	led := ledger.New()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx, led, 1) }()
	for i, words := range []string{"before", "two\nlines", "last"} {
		r := ledger.Record{Type: ledger.TypeOp, Op: &op.Op{
			ID: words, Guest: guest.ID{Kind: guest.LXC, VMID: 101}, State: op.Intent, Reason: words,
		}}
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := led.Apply(journal.Entry{Seq: uint64(i + 1), Time: time.Unix(0, 0), Payload: b}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "101 op two lines") || !strings.HasPrefix(lines[1], "1970-01-01T00:00:00Z 3 101") {
		t.Errorf("audit log:\n%s", b)
	}
	st, err := os.Stat(filepath.Join(dir, "audit.log"))
	if err != nil || st.Mode().Perm()&0o007 != 0 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestLineIsOneLine: no text looks like two lines, neither to people nor to a
// collector for whom Unicode has more line ends, and none steers a terminal.
func TestLineIsOneLine(t *testing.T) {
	e := ledger.Entry{Seq: 7, Record: ledger.Record{Type: ledger.TypeOp, Op: &op.Op{
		Guest: guest.ID{Kind: guest.LXC, VMID: 101}, State: op.Intent, Reason: "a\u0085b\u2028c\u2029d\u009b2Je\x1b[2Jf\rg\xffh",
	}}}
	if line := Line(e); !strings.HasSuffix(line, ": a b c d 2Je [2Jf g\ufffdh\n") {
		t.Errorf("%q", line)
	}
}

func TestRotationKeepsTheMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o027))
	dir := t.TempDir()
	l, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.out.(*lumberjack.Logger).Compress = false // by a goroutine that nobody can wait for
	half := make([]byte, MaxMegabytes<<19)
	for n := range 3 { // with the third it is rotated
		if _, err := l.out.Write(half); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(dir, "audit.log"))
		if err != nil || st.Mode() != 0o640 || (n == 2) != (st.Size() == int64(len(half)) && n > 0) {
			t.Errorf("write %d: %v, %d bytes, %v", n, st.Mode(), st.Size(), err)
		}
	}
}
