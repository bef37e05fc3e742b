// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"encoding/json"
	"strconv"
)

// rawData is an answer's envelope that is JSON already: {"data":...}.
type rawData []byte

const rawHead = `{"data":`

// data is what is in the envelope.
func (r rawData) data() json.RawMessage { return json.RawMessage(r[len(rawHead) : len(r)-1]) }

// seesLocked answers for many guests whether the caller holds a privilege:
// the guests without grants of their own are asked about once.
func (c *call) seesLocked(priv string) func(vmid int) bool {
	special := c.sim.acl.Special()
	others := c.mayLocked("/vms/-", priv)
	return func(vmid int) bool {
		if special[vmid] {
			return c.mayLocked("/vms/"+strconv.Itoa(vmid), priv)
		}
		return others
	}
}

// appendRow appends a guest's row of the list of its kind. What does not
// change by itself is kept encoded until the guest changes.
func (s *Sim) appendRow(b []byte, g *guestState) []byte {
	if g.row == nil {
		m := s.statusRow(g)
		delete(m, "uptime")
		g.row = encode(m)
	}
	return s.appendUptime(b, g, g.row)
}

// appendUptime appends an encoded row and its guest's uptime.
func (s *Sim) appendUptime(b []byte, g *guestState, row []byte) []byte {
	b = append(b, row[:len(row)-1]...)
	b = append(b, `,"uptime":`...)
	uptime := int64(0)
	if g.up {
		uptime = int64(s.now().Sub(g.since).Seconds())
	}
	return append(strconv.AppendInt(b, uptime, 10), '}')
}

// resource is a guest's row in cluster/resources with the pool that the
// caller may see, from what is kept encoded where the last broadcast tells
// what is still so.
func (s *Sim) resource(g *guestState, pool string) any {
	tick := s.tickLocked()
	if tick < 0 || g.heard.born == tick || g.heard.row != nil && g.heard.tick == tick {
		return s.pooledRow(g, pool)
	}
	key := pool
	if g.ha != nil {
		key += "\x00" + g.ha.state
	}
	if g.resource == nil || g.resourceKey != key {
		m := s.pooledRow(g, pool)
		delete(m, "uptime")
		g.resource, g.resourceKey = encode(m), key
	}
	return json.RawMessage(s.appendUptime(nil, g, g.resource))
}

func (s *Sim) pooledRow(g *guestState, pool string) map[string]any {
	m := s.resourceRow(g)
	if delete(m, "pool"); pool != "" {
		m["pool"] = pool
	}
	return m
}

// listGuests is the list of one kind's guests on the node.
func listGuests(c *call) (any, error) {
	s, kind := c.sim, c.kind()
	s.mu.Lock()
	defer s.mu.Unlock()
	sees := c.seesLocked("VM.Audit")
	all := s.sortedGuests()
	out := append(make([]byte, 0, 448*len(all)+64), rawHead+"["...)
	first := len(out)
	for _, g := range all {
		if g.kind != kind || !sees(g.vmid) {
			continue
		}
		if s.closingReadLocked(g) {
			return nil, errSocketReset
		}
		if len(out) > first {
			out = append(out, ',')
		}
		out = s.appendRow(out, g)
	}
	return rawData(append(out, "]}"...)), nil
}
