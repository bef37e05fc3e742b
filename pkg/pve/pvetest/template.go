// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// makeTemplate is POST .../template. A container's answer is null although a
// task is at work, which holds the guest's lock from the checks on.
func makeTemplate(c *call) (any, error) {
	s, kind, vmid := c.sim, c.kind(), c.vmid()
	unlock, err := s.lockGuest(c.ctx, kind, vmid, nil)
	if err != nil {
		return nil, err
	}
	g, err := s.templatable(kind, vmid)
	if err != nil {
		unlock()
		return nil, err
	}
	upid, err := c.guestTask(taskPrefix(kind)+"template", func(t *task) error {
		defer unlock()
		return t.toTemplate(g)
	})
	if err != nil {
		unlock()
		return nil, err
	}
	if kind == guest.LXC {
		return nil, nil
	}
	return upid, nil
}

func (s *Sim) templatable(kind guest.Kind, vmid int) (*guestState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(kind, vmid)
	if err != nil {
		return nil, err
	}
	if err := g.checkLock(); err != nil {
		return nil, err
	}
	what, the := pick(kind, "CT", "VM"), pick(kind, "the CT", "VM")
	switch {
	case len(g.conf.Snapshots) > 0:
		return nil, die("unable to create template, because %s contains snapshots", what)
	case g.conf.Template():
		return nil, die("you can't convert a template to a template")
	case g.up:
		return nil, die("you can't convert a %s to template if %s is running", what, the)
	}
	return g, nil
}

// toTemplate renames the guest's volumes to base volumes and marks it.
func (t *task) toTemplate(g *guestState) error {
	s := t.sim
	if !t.wait(s.scaled(pick(g.kind, 200*time.Millisecond, 10*time.Millisecond))) {
		return errInterrupted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.confEdit(g, func(c *conf.Guest) {
		c.Current.Set("template", "1")
		for _, k := range disksOf(c.Current, false) {
			v := c.Current.Values[k]
			volid, _ := diskOf(v)
			if g.kind == guest.QEMU && isCDROM(v) || s.volume(volid) == nil {
				continue
			}
			c.Current.Set(k, withVolume(v, s.renameVolume(volid, strings.Replace(volid, "/vm-", "/base-", 1), g.vmid)))
		}
	})
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "template", User: t.user, UPID: t.upid})
	return nil
}

// renameVolume gives a volume another id and owner. Needs mu.
func (s *Sim) renameVolume(from, to string, owner int) string {
	st := s.storage(storageOf(from))
	v := st.volumes[from]
	delete(st.volumes, from)
	v.VolID, v.VMID = to, owner
	st.volumes[to] = v
	return to
}
