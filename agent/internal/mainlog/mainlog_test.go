// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package mainlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

type line struct {
	Text   string
	Pri    journal.Priority
	Fields map[string]string
}

func toJournal(out *[]line, fail error) (*journalHandler, *bytes.Buffer) {
	plain := &bytes.Buffer{}
	return &journalHandler{
		level: slog.LevelInfo, fallback: slog.NewTextHandler(plain, nil),
		send: func(m string, p journal.Priority, f map[string]string) error {
			if fail == nil {
				*out = append(*out, line{m, p, f})
			}
			return fail
		},
	}, plain
}

func TestAttributesAreFields(t *testing.T) {
	var got []line
	h, _ := toJournal(&got, nil)
	log := slog.New(h).With("plugin", "pve").WithGroup("task")
	log.Debug("not this")
	log.Error("it failed", "upid", "UPID:pve1:00:", "why", "two words\nand more", slog.Group("g", "x-y", 3))
	want := []line{{
		Text: `it failed plugin=pve task.upid=UPID:pve1:00: task.why="two words\nand more" task.g.x-y=3`, Pri: journal.PriErr,
		Fields: map[string]string{
			"SYSLOG_IDENTIFIER": "felhom-agent", "FELHOM_PLUGIN": "pve", "FELHOM_TASK_UPID": "UPID:pve1:00:",
			"FELHOM_TASK_WHY": "two words\nand more", "FELHOM_TASK_G_X_Y": "3",
		},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWhatTheJournalRefusesGoesToStderr(t *testing.T) {
	h, plain := toJournal(nil, errors.New("no journald"))
	slog.New(h).With("guest", "lxc/101").Warn("hello", "op", "x")
	if got := plain.String(); !strings.Contains(got, "msg=hello guest=lxc/101 op=x") {
		t.Errorf("got %q", got)
	}
}

func TestLinesAreCut(t *testing.T) {
	var got []line
	h, _ := toJournal(&got, nil)
	long := strings.Repeat("ü", 1<<20)
	slog.New(h).Info(long, "a", long, "b", long)
	if n := len(got[0].Text); n > maxMessage+40 {
		t.Errorf("a text of %d bytes", n)
	}
	for k, v := range got[0].Fields {
		if len(v) > maxValue+40 {
			t.Errorf("%s has %d bytes", k, len(v))
		}
	}
	plain := &bytes.Buffer{}
	slog.New(New(plain, slog.LevelInfo)).Info("x", "a", long, "err", errors.New(long), "n", 5)
	if plain.Len() > 3*maxValue || !strings.Contains(plain.String(), "n=5") {
		t.Errorf("a line of %d bytes", plain.Len())
	}
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []line
		h, _ := toJournal(&got, nil)
		log := slog.New(Bound(h))
		for range 10_000 {
			log.With("a", "b").Info("chatter")
		}
		if len(got) != burst-reserve {
			t.Errorf("%d lines of a flood, want %d", len(got), burst-reserve)
		}
		log.Error("this matters")
		if last := got[len(got)-1].Text; last != "this matters" {
			t.Errorf("after a flood of chatter an error is dropped: %q", last)
		}
		if note := got[len(got)-2].Text; note != fmt.Sprintf("the log was too fast, lines are missing dropped_lines=%d", 10_000-burst+reserve) {
			t.Errorf("got %q", note)
		}
		for range 10_000 {
			log.Error("a flood of errors")
		}
		if len(got) > burst+10 {
			t.Errorf("%d lines in no time", len(got))
		}
		before := len(got)
		time.Sleep(time.Minute)
		for range 10_000 {
			log.Error("a flood of errors")
		}
		if n := len(got) - before; n > 60*perSec+1 {
			t.Errorf("%d lines in a minute", n)
		}
	})
}

func TestManyWriters(t *testing.T) {
	var mu sync.Mutex
	n := 0
	log := slog.New(Bound(&journalHandler{level: slog.LevelInfo, send: func(string, journal.Priority, map[string]string) error {
		mu.Lock()
		defer mu.Unlock()
		n++
		return nil
	}}))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				log.InfoContext(context.Background(), "x", "guest", 101)
			}
		})
	}
	wg.Wait()
	if n != 160 {
		t.Errorf("%d lines of 160", n)
	}
}
