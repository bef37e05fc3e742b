// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// contender is one command of the benchmark.
type contender struct {
	name string
	argv []string
}

func contenders(b *testing.B) []contender {
	b.Helper()
	in, spool := agentUp(b), b.TempDir()
	as := func(socket string) []string {
		return []string{helper, "-socket", socket, "-spool", spool, "101", "pre-start"}
	}
	list := []contender{
		{"true", []string{"/bin/true"}},
		{"bare", []string{bare}},
		{"up", as(in.socket)},
		{"down", as("/nonexistent/hook.sock")},
		{"snippet", []string{benchSnippet(b, as(in.socket)), "101", "pre-start"}},
	}
	if perl, err := exec.LookPath("perl"); err == nil {
		list = append(list, contender{"perl", []string{perl, "testdata/hook.pl", in.socket, "101", "pre-start"}})
	}
	return list
}

// benchSnippet is the snippet with the helper's options in it.
func benchSnippet(b *testing.B, command []string) string {
	b.Helper()
	script, err := os.ReadFile("../felhom-hookscript")
	if err != nil {
		b.Fatal(err)
	}
	text := strings.Replace(string(script), packaged, "helper="+helper+"\n", 1)
	text = strings.Replace(text, `"$helper" "$1" "$2"`, strings.Join(command, " "), 1)
	if !strings.Contains(text, command[0]) {
		b.Fatal("the snippet does not run the helper in the way that is known here")
	}
	path := filepath.Join(b.TempDir(), "felhom-hook")
	write(b, path, []byte(text), 0o755)
	return path
}

// BenchmarkOne runs all contenders in turn, one process at a time, and reports
// each one's p50 and p99 and its p50 against the bare static Go program.
func BenchmarkOne(b *testing.B) {
	list := contenders(b)
	took := map[string][]time.Duration{}
	for b.Loop() {
		for _, c := range list {
			took[c.name] = append(took[c.name], spawn(b, c))
		}
	}
	report(b, list, took, 50)
}

// BenchmarkBurst starts 200 processes of each contender at once, as a boot
// does, and compares p99.
func BenchmarkBurst(b *testing.B) {
	const n = 200
	list := contenders(b)
	took := map[string][]time.Duration{}
	for b.Loop() {
		for _, c := range list {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for range n {
				wg.Go(func() {
					d := spawn(b, c)
					mu.Lock()
					defer mu.Unlock()
					took[c.name] = append(took[c.name], d)
				})
			}
			wg.Wait()
		}
	}
	report(b, list, took, 99)
}

// BenchmarkHung is the agent that never answers: the budget is what it takes.
func BenchmarkHung(b *testing.B) {
	c := contender{"hung", []string{helper, "-socket", agentHung(b), "-spool", b.TempDir(), "101", "pre-start"}}
	took := map[string][]time.Duration{}
	for b.Loop() {
		took[c.name] = append(took[c.name], spawn(b, c))
	}
	report(b, []contender{c}, took, 50)
}

func spawn(b *testing.B, c contender) time.Duration {
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	if c.argv[0] == helper {
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // as the snippet does
	}
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Error(c.name, err)
	}
	return time.Since(start)
}

// report prints percentiles and, at the given one, the ratio to bare.
func report(b *testing.B, list []contender, took map[string][]time.Duration, percent int) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // a sum over contenders says nothing
	for _, c := range list {
		b.ReportMetric(at(took[c.name], 50).Seconds()*1e3, c.name+"-p50-ms")
		b.ReportMetric(at(took[c.name], 99).Seconds()*1e3, c.name+"-p99-ms")
		if base := at(took["bare"], percent); base > 0 && c.name != "bare" {
			b.ReportMetric(float64(at(took[c.name], percent))/float64(base), fmt.Sprintf("%s/bare-p%d", c.name, percent))
		}
	}
}

func at(d []time.Duration, percent int) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}
