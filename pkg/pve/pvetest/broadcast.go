// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// broadcastEvery is the period of the status broadcast; cluster/resources
// shows what the last one told, however old.
const broadcastEvery = 10 * time.Second

// broadcast is what the cluster has heard of a guest. It is taken when the
// guest changes, not when it is told, so that thousands of guests at rest
// cost nothing.
type broadcast struct {
	born int64 // broadcast during whose time the guest came; -1 if before all
	tick int64 // broadcast that told row
	row  map[string]any
}

// tickLocked numbers the last broadcast; negative before the first after a
// boot.
func (s *Sim) tickLocked() int64 {
	d := s.now().Sub(s.statFrom)
	if d < 0 {
		return -1
	}
	return int64(d / broadcastEvery)
}

// changingLocked keeps what the last broadcast told of a guest that is about
// to change.
func (s *Sim) changingLocked(g *guestState) {
	g.row, g.resource = nil, nil
	tick := s.tickLocked()
	if tick < 0 || g.heard.row != nil && g.heard.tick == tick || g.heard.born == tick {
		return
	}
	g.heard.tick, g.heard.row = tick, s.resourceNumbers(g)
}

// resourceNumbers is what a broadcast tells of a guest.
func (s *Sim) resourceNumbers(g *guestState) map[string]any {
	m := s.common(g)
	for _, k := range []string{"pid", "lock", "tags"} {
		delete(m, k)
	}
	if fs := s.runningRoot(g); fs != 0 {
		m["maxdisk"] = fs
	}
	m["maxcpu"] = m["cpus"]
	delete(m, "cpus")
	m["template"] = b2i(g.conf.Template())
	if s.major >= 9 {
		m["memhost"] = m["mem"]
	}
	return m
}

func (s *Sim) runningRoot(g *guestState) int64 {
	if g.kind != guest.LXC || !g.alive() {
		return 0
	}
	return s.rootSize(g)
}

// resourceRow is a guest in cluster/resources: numbers and run state from the
// last broadcast, place, lock, tags, pool and HA state as they are.
func (s *Sim) resourceRow(g *guestState) map[string]any {
	m := map[string]any{"status": "unknown"}
	switch tick := s.tickLocked(); {
	case tick < 0 || g.heard.born == tick:
	case g.heard.row != nil && g.heard.tick == tick:
		maps.Copy(m, g.heard.row)
	default:
		m = s.resourceNumbers(g)
	}
	m["type"], m["id"], m["node"], m["vmid"] = string(g.kind), fmt.Sprintf("%s/%d", g.kind, g.vmid), s.opt.Node, g.vmid
	if l := g.conf.Lock(); l != "" {
		m["lock"] = l
	}
	if t := g.value("tags"); t != "" {
		m["tags"] = t
	}
	if p := s.acl.PoolOf(g.vmid); p != "" {
		m["pool"] = p
	}
	if g.ha != nil {
		m["hastate"] = g.ha.state
	}
	return m
}
