// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// guestState is one guest on the node. The Sim's mu guards it.
type guestState struct {
	kind  guest.Kind
	vmid  int
	conf  *conf.Guest
	times Times

	// up is what the API calls running: the container's command socket, the
	// virtual machine's process.
	up bool
	// unit is the systemd unit; it outlives up until post-stop has returned.
	unit    bool
	unitEnd chan struct{} // closed when unit ends
	pid     int
	since   time.Time
	paused  bool
	run     int // counts runs, so that a late watcher knows its own
	// resetReads is how many reads still meet a closing command socket.
	resetReads int
	// resets is until when reads meet it of themselves.
	resets time.Time
	born   time.Time
	heard  broadcast
	// row and resource are the guest in the list of its kind and in
	// cluster/resources, encoded; nil when they are to be made.
	row, resource []byte
	resourceKey   string   // pool and HA state in resource
	ha            *haState // nil unless HA manages it
}

// Recorded durations on real nodes, where the guest does not say.
const (
	ctStart    = 1000 * time.Millisecond
	ctStop     = 900 * time.Millisecond
	ctShutdown = 2900 * time.Millisecond
	ctClosing  = 1400 * time.Millisecond
	vmStart    = 400 * time.Millisecond
	vmStop     = 100 * time.Millisecond
	vmShutdown = 1400 * time.Millisecond
	hookLead   = 60 * time.Millisecond // from the lock to the first hook
)

func (g *guestState) startTime() time.Duration {
	return either(g.times.Start, pick(g.kind, ctStart, vmStart))
}

func (g *guestState) stopTime() time.Duration {
	return either(g.times.Stop, pick(g.kind, ctStop, vmStop))
}

func (g *guestState) shutdownTime() time.Duration {
	return either(g.times.Shutdown, pick(g.kind, ctShutdown, vmShutdown))
}

func (g *guestState) closingTime() time.Duration { return either(g.times.Closing, ctClosing) }

func either(d, def time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return def
}

func pick[T any](kind guest.Kind, ct, vm T) T {
	if kind == guest.QEMU {
		return vm
	}
	return ct
}

func (s *Sim) addGuests(specs []GuestSpec) error {
	for _, spec := range specs {
		if err := s.addGuest(spec); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sim) addGuest(spec GuestSpec) error {
	if !spec.Kind.Valid() {
		return fmt.Errorf("guest %d: kind %q is neither lxc nor qemu", spec.VMID, spec.Kind)
	}
	if _, err := guest.ParseVMID(fmt.Sprint(spec.VMID)); err != nil {
		return fmt.Errorf("guest %d: %w", spec.VMID, err)
	}
	cfg, err := spec.parse()
	if err != nil {
		return fmt.Errorf("guest %d: %w", spec.VMID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.guests[spec.VMID] != nil {
		return fmt.Errorf("guest %d is there twice", spec.VMID)
	}
	g := s.newGuestLocked(spec.Kind, spec.VMID, cfg)
	g.times = spec.Times
	s.addVolumesLocked(g)
	if spec.Running {
		s.riseLocked(g)
	}
	s.touchLocked(g)
	return nil
}

// newGuestLocked enters a guest; its config is not written yet.
func (s *Sim) newGuestLocked(kind guest.Kind, vmid int, cfg *conf.Guest) *guestState {
	g := &guestState{kind: kind, vmid: vmid, conf: cfg, born: s.now(), heard: broadcast{born: s.tickLocked()}}
	s.guests[vmid] = g
	return g
}

func (spec GuestSpec) parse() (*conf.Guest, error) {
	if spec.File != "" {
		return conf.Parse(spec.Kind, guest.VMID(spec.VMID), spec.File)
	}
	return conf.New(spec.Kind, guest.VMID(spec.VMID), spec.Config), nil
}

// riseLocked makes the guest running with a new process.
func (s *Sim) riseLocked(g *guestState) {
	s.changingLocked(g)
	g.run++
	g.up, g.pid, g.since, g.paused = true, s.pidLocked(), s.now(), false
	if !g.unit {
		g.unit, g.unitEnd = true, make(chan struct{})
	}
	g.conf = g.conf.SetRunning(true)
}

// sinkLocked ends the guest's process; its unit lives on.
func (s *Sim) sinkLocked(g *guestState) {
	s.changingLocked(g)
	g.up, g.pid, g.paused = false, 0, false
	g.conf = g.conf.SetRunning(false)
}

// unitGoneLocked ends the unit.
func (g *guestState) unitGoneLocked() {
	if g.unit {
		g.unit = false
		close(g.unitEnd)
	}
}

// find returns a guest of the kind, or PVE's complaint.
func (s *Sim) find(kind guest.Kind, vmid int) (*guestState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(kind, vmid)
}

func (s *Sim) findLocked(kind guest.Kind, vmid int) (*guestState, error) {
	if g := s.guests[vmid]; g != nil && g.kind == kind {
		return g, nil
	}
	return nil, s.noConfig(kind, vmid)
}

func (s *Sim) noConfig(kind guest.Kind, vmid int) error {
	return die("Configuration file 'nodes/%s/%s/%d.conf' does not exist", s.opt.Node, pick(kind, "lxc", "qemu-server"), vmid)
}

// sortedGuests returns the guests by VMID. Needs mu.
func (s *Sim) sortedGuests() []*guestState {
	out := make([]*guestState, 0, len(s.guests))
	for _, id := range slices.Sorted(maps.Keys(s.guests)) {
		out = append(out, s.guests[id])
	}
	return out
}

// setConfLocked stores a new config and tells pmxcfs's counters.
func (s *Sim) setConfLocked(g *guestState, c *conf.Guest) {
	s.changingLocked(g)
	g.conf = c.SetRunning(g.up)
	s.touchLocked(g)
}

// value returns a config value, or "".
func (g *guestState) value(key string) string {
	v, _ := g.conf.Current.Get(key)
	return v
}

func (g *guestState) name() string {
	if g.kind == guest.QEMU {
		if n := g.value("name"); n != "" {
			return n
		}
		return fmt.Sprintf("VM %d", g.vmid)
	}
	if n := g.value("hostname"); n != "" {
		return n
	}
	return fmt.Sprintf("CT%d", g.vmid)
}

// checkLock is PVE's refusal of a guest with a lock; allowed locks pass.
func (g *guestState) checkLock(allowed ...string) error {
	l := g.conf.Lock()
	if l == "" || slices.Contains(allowed, l) {
		return nil
	}
	return die("%s is locked (%s)", pick(g.kind, "CT", "VM"), l)
}
