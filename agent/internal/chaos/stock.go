// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// stock is what there is: goroutines and descriptors of this process, and the
// processes and files that belong to a row.
type stock struct {
	goroutines, descriptors int
	processes, files        []string
}

func takeStock(dir string) stock {
	s := stock{goroutines: runtime.NumGoroutine()}
	fds, _ := os.ReadDir("/proc/self/fd")
	s.descriptors = len(fds)
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(env), "="+dir) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		s.processes = append(s.processes, fmt.Sprintf("%d %q", pid, strings.ReplaceAll(string(cmd), "\x00", " ")))
	}
	s.files, _ = filepath.Glob(filepath.Join(dir, "*", "plugin-dir*"))
	return s
}

func takeStockOf(dir string) func() stock { return func() stock { return takeStock(dir) } }

// compare says what there is more than before. What is about to go is given
// time to.
func (s stock) compare(ctx context.Context, now func() stock) string {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); ; {
		left := s.more(now())
		if left == "" || time.Now().After(end) {
			return left
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}

func (s stock) more(n stock) string {
	var left []string
	if n.goroutines > s.goroutines {
		left = append(left, fmt.Sprintf("%d goroutines", n.goroutines-s.goroutines))
	}
	if n.descriptors > s.descriptors {
		left = append(left, fmt.Sprintf("%d descriptors", n.descriptors-s.descriptors))
	}
	if len(n.processes) > len(s.processes) {
		left = append(left, fmt.Sprintf("processes %v", n.processes))
	}
	if len(n.files) > len(s.files) {
		left = append(left, fmt.Sprintf("files %v", n.files))
	}
	return strings.Join(left, ", ")
}
