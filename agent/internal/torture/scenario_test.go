// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// spec is a guest of the usual kind.
func spec(k guest.Kind, vmid int, running bool) pvetest.GuestSpec {
	mac := fmt.Sprintf("BC:24:11:00:00:%02X", vmid%256)
	s := pvetest.GuestSpec{Kind: k, VMID: vmid, Running: running, Times: pvetest.Times{Start: 3 * time.Second, Shutdown: 2 * time.Second}}
	s.Config = map[string]string{
		"hostname": "ct", "cores": "1", "memory": "512", "swap": "0", "arch": "amd64", "ostype": "debian", "unprivileged": "1",
		"rootfs": fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=8G", vmid, vmid), "hookscript": "local:snippets/felhom-hook",
		"net0": "name=eth0,bridge=vmbr0,hwaddr=" + mac + ",ip=dhcp,type=veth",
	}
	if k == guest.QEMU {
		s.Config = map[string]string{
			"name": "vm", "cores": "1", "memory": "1024", "net0": "virtio=" + mac + ",bridge=vmbr0", "ostype": "l26",
			"hookscript": "local:snippets/felhom-hook",
		}
	}
	return s
}

// size is how much a scenario tries: "quick", "" or "full".
func size(quick, sample, full int) int {
	switch os.Getenv("FELHOM_TORTURE") {
	case "full":
		return full
	case "quick":
		return quick
	}
	return sample
}

// began is when the tests began.
var began = time.Now()

// timeUp tells whether a scenario that tries everything has used the time that all may take, up to that part of it: on a
// slow machine each tries what it can, and the row says so.
func timeUp(t *testing.T, row *Row, part float64) bool {
	end, limited := t.Deadline()
	if size(0, 0, 1) == 0 || !limited || time.Since(began) < time.Duration(part*float64(end.Sub(began))) {
		return false
	}
	row.Cut = true
	return true
}

// onDemand skips what runs real programs against the clock, or at random: that
// is for make torture, not for every run of the tests.
func onDemand(t *testing.T) {
	t.Helper()
	if os.Getenv("FELHOM_TORTURE") == "" {
		t.Skip("runs with make torture")
	}
}

// notUnderRace skips what the race detector's build cannot run.
func notUnderRace(t *testing.T) {
	t.Helper()
	if raceDetector {
		t.Skip("not under the race detector, see raceDetector")
	}
}

// seedOf is FELHOM_SEED, or one drawn from the clock.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("FELHOM_SEED")
	if s == "" {
		return uint64(time.Now().UnixNano())
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// report prints a row and fails the test if it is not clean.
func report(t *testing.T, r Row, v Verdict) {
	t.Helper()
	r.Lost, r.Doubled, r.Stuck = v.Lost, v.Doubled, v.Stuck
	r.Print()
	for _, text := range v.Texts {
		t.Error(text)
	}
	if r.Points+r.Rounds == 0 && r.Skipped == "" && !r.Cut {
		t.Error("nothing was tried")
	}
}
