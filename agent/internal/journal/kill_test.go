// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// childDir, in the environment, makes the test binary append to that directory until it is killed.
const childDir = "FELHOM_JOURNAL_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// child appends from several goroutines, with compactions in between, and prints what was acknowledged.
func child(dir string) error {
	j, _, err := Open(context.Background(), killOptions(dir, &texts{}))
	if err != nil {
		return err
	}
	var out sync.Mutex
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				text := fmt.Sprintf(`"%d.%d.%d %s"`, os.Getpid(), w, n, strings.Repeat("x", n%200))
				if _, err := j.Append(context.Background(), []byte(text)); err != nil {
					return
				}
				out.Lock()
				fmt.Println(text)
				out.Unlock()
			}
		})
	}
	all.Wait()
	return errors.New("the journal ended")
}

func killOptions(dir string, fold Fold) Options {
	return Options{Dir: dir, Fold: fold, Host: "h", SegmentBytes: 20_000, CompactBytes: 50_000, Keep: 1, KeepArchived: 2}
}

// TestKilledProcess kills a process that appends, at a random moment, some times over the same directory. What it said to
// be on disk is there.
func TestKilledProcess(t *testing.T) {
	rounds := 4
	if full() {
		rounds = 40
	}
	dir, acked := t.TempDir(), []string(nil)
	var v verdict
	for range rounds {
		acked = append(acked, killOne(t, dir, func(p *os.Process) { _ = p.Signal(syscall.SIGKILL) })...)
		judgeKilled(t, &v, dir, acked)
	}
	v.report(t, "kill -9, random", acked)
}

// judgeKilled opens what a stopped process left and looks for what it had acknowledged.
func judgeKilled(t *testing.T, v *verdict, dir string, acked []string) {
	t.Helper()
	v.points++
	fold := &texts{}
	j, _, err := Open(t.Context(), killOptions(dir, fold))
	if err != nil || j.Err() != nil {
		t.Fatalf("round %d: %v, %v", v.points, err, errOf(j))
	}
	there := map[string]int{}
	for _, text := range fold.Got {
		if there[text]++; there[text] > 1 {
			v.bad(&v.doubled, "round %d: %s is there twice", v.points, text)
		}
	}
	for _, text := range acked {
		if there[text] == 0 {
			v.bad(&v.lost, "round %d: %s was acknowledged and is gone", v.points, text)
		}
	}
	mustClose(t, j)
	if check, err := Check(fsys.OS{}, dir); err != nil || !check.OK() {
		v.bad(&v.stuck, "round %d: %v, %v", v.points, err, check.Problems)
	}
}

func (v *verdict) report(t *testing.T, name string, acked []string) {
	t.Helper()
	v.print(name)
	t.Logf("%d entries acknowledged", len(acked))
	for _, text := range v.texts {
		t.Error(text)
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged before the end")
	}
}

// killOne runs the child, stops it in the given way, and returns what it had acknowledged.
func killOne(t *testing.T, dir string, stop func(*os.Process)) (acked []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = []string{childDir + "=" + dir}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	after, begun := 1+rand.IntN(400), bufio.NewReader(out)
	for range after {
		line, err := begun.ReadString('\n')
		if err != nil {
			t.Fatalf("the child ended by itself: %v", err)
		}
		acked = append(acked, strings.TrimSuffix(line, "\n"))
	}
	var stopping sync.WaitGroup
	stopping.Go(func() {
		<-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond)
		stop(cmd.Process)
	})
	rest, err := io.ReadAll(begun)
	if err != nil {
		t.Fatal(err)
	}
	stopping.Wait()
	_ = cmd.Wait()
	lines := strings.SplitAfter(string(rest), "\n")
	for _, line := range lines[:len(lines)-1] { // what follows the last newline was cut
		acked = append(acked, strings.TrimSuffix(line, "\n"))
	}
	return acked
}
