// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// lifeRoutes make and destroy guests and their disks.
func lifeRoutes() []route {
	anyKey := func(*call, string) bool { return true }
	vmidParam := schema.Param{Name: "vmid", Type: schema.Integer, Required: true, Min: schema.F(100), Max: schema.F(999999999)}
	destroy := []schema.Param{
		{Name: "force", Type: schema.Boolean},
		{Name: "purge", Type: schema.Boolean},
		{Name: "destroy-unreferenced-disks", Type: schema.Boolean},
	}
	return []route{
		{
			method: "POST", path: "/nodes/{node}/lxc", protected: true, run: createCT,
			params: []schema.Param{vmidParam}, extra: anyKey, also: createErrors,
		},
		{method: "DELETE", path: "/nodes/{node}/lxc/{vmid}", protected: true, perm: guestPerm("VM.Allocate"), params: destroy, run: destroyCT},
		{method: "PUT", path: "/nodes/{node}/lxc/{vmid}/resize", protected: true, perm: guestPerm("VM.Config.Disk"), extra: anyKey, run: resizeDisk},
		{method: "PUT", path: "/nodes/{node}/qemu/{vmid}/resize", protected: true, perm: guestPerm("VM.Config.Disk"), extra: anyKey, run: resizeDisk},
	}
}

// createErrors are package conf's complaints about a create call, for one
// answer with the route's own.
func createErrors(c *call) map[string]string {
	all := map[string]string{}
	for k, v := range c.in {
		if k != "node" && k != "vmid" && v.Kind == "" {
			all[k] = v.S
		}
	}
	if err := conf.CheckParams(c.sim.major, c.kind(), conf.Create, all); err != nil {
		return err.Errors
	}
	return nil
}

// destroyCT is DELETE .../lxc/{vmid}.
func destroyCT(c *call) (any, error) {
	s, vmid := c.sim, c.vmid()
	g, err := s.find(guest.LXC, vmid)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	err, up := s.mayGo(g, c.in.Bool("purge")), g.up
	s.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case up && !c.in.Bool("force"):
		return nil, die("unable to destroy CT %d - container is running", vmid)
	}
	purge, unref := c.in.Bool("purge"), c.in.Bool("destroy-unreferenced-disks")
	return c.guestTask("vzdestroy", func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.LXC, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		return t.ctDestroy(vmid, purge, unref)
	})
}

func (t *task) ctDestroy(vmid int, purge, unref bool) error {
	s := t.sim
	g, err := s.find(guest.LXC, vmid)
	if err != nil {
		return err
	}
	if err := t.checkLocked(g, stopHow{}); err != nil {
		return err
	}
	if s.isUp(g) {
		t.say(fmt.Sprintf("forced to stop CT %d before destroying!\n", vmid))
		if err := t.ctStop(g, stopHow{what: "stop", hard: true}); err != nil {
			return err
		}
	}
	return t.destroy(g, purge, unref)
}

// resizeDisk is PUT .../resize of both kinds.
func resizeDisk(c *call) (any, error) {
	params, err := c.configParams()
	if err != nil {
		return nil, err
	}
	s, kind, vmid, user := c.sim, c.kind(), c.vmid(), c.authid
	res, err := s.tryResize(kind, vmid, user, params)
	if err != nil {
		return nil, err
	}
	if res.Err != nil {
		return nil, fromConf(res.Err)
	}
	return c.guestTask("resize", func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, kind, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		return t.resize(kind, vmid, params)
	})
}

func (s *Sim) tryResize(kind guest.Kind, vmid int, user string, params map[string]string) (conf.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := conf.CheckParams(s.major, kind, conf.ResizeDisk, params); err != nil {
		return conf.Result{}, fromConf(err)
	}
	g, err := s.findLocked(kind, vmid)
	if err != nil {
		return conf.Result{}, err
	}
	return g.conf.Resize(s.confRequest(user, params, false)), nil
}

func (t *task) resize(kind guest.Kind, vmid int, params map[string]string) error {
	s := t.sim
	res, err := s.tryResize(kind, vmid, t.user, params)
	if err != nil {
		return err
	}
	if res.TaskErr != "" {
		return die("%s", res.TaskErr)
	}
	if res.Err != nil {
		return die("%s", res.Err.Message)
	}
	s.mu.Lock()
	g := s.guests[vmid]
	old := int64(0)
	volid, _ := diskOf(g.value(params["disk"]))
	if v := s.volume(volid); v != nil {
		old = either3(v.fs, v.Size)
	}
	s.effectsLocked(g, res.Effects)
	if res.Guest != g.conf {
		s.setConfLocked(g, res.Guest)
		s.noteLocked(Mutation{Kind: string(kind), VMID: vmid, What: "resize", User: t.user, UPID: t.upid, Detail: params["disk"]})
	}
	up := g.up
	s.mu.Unlock()
	switch {
	case len(res.Effects) == 0:
	case kind == guest.LXC:
		t.growFS(volid, old, up)
	case !up:
		t.say("Image resized.\n")
	}
	return nil
}
