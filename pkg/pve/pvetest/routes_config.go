// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// configRoutes is the writing of configs; what a write does to a config is
// package conf's business, locks, tasks and volumes are this file's.
func configRoutes() []route {
	anyKey := func(*call, string) bool { return true }
	return []route{
		{method: "PUT", path: "/nodes/{node}/lxc/{vmid}/config", protected: true, extra: anyKey, perm: configPerm, run: putConfig},
		{method: "PUT", path: "/nodes/{node}/qemu/{vmid}/config", protected: true, extra: anyKey, perm: configPerm, run: putConfig},
		{method: "POST", path: "/nodes/{node}/qemu/{vmid}/config", protected: true, extra: anyKey, perm: configPerm, run: postConfig},
	}
}

// configPerm lets those through who hold one of the privileges to change
// anything; which keys is decided later.
func configPerm(c *call) error {
	if c.kind() == guest.QEMU {
		return c.need("/vms/"+c.path["vmid"], "VM.Config.Disk", "VM.Config.CDROM", "VM.Config.CPU", "VM.Config.Memory",
			"VM.Config.Network", "VM.Config.HWType", "VM.Config.Options", "VM.Config.Cloudinit")
	}
	return c.need("/vms/"+c.path["vmid"], "VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options")
}

// configParams are the call's parameters without the path's. What is not a
// scalar is refused here, with PVE's text.
func (c *call) configParams() (map[string]string, error) {
	out, errs := map[string]string{}, map[string]string{}
	for name, v := range c.in {
		if _, inPath := c.path[name]; inPath {
			continue
		}
		if v.Kind != "" {
			if isListParam(name) && v.Kind == "ARRAY" {
				out[name] = v.S
				continue
			}
			errs[name] = "type check ('string') failed - got " + v.Kind
			continue
		}
		out[name] = v.S
	}
	if len(errs) > 0 {
		return nil, badParams(errs)
	}
	return out, nil
}

func isListParam(name string) bool { return name == "delete" || name == "revert" || name == "tags" }

func putConfig(c *call) (any, error) { return c.writeConfig(false) }

func postConfig(c *call) (any, error) { return c.writeConfig(true) }

// writeConfig first tries the write on the config as it is: what is refused
// without a change is refused before PVE waits for the lock.
func (c *call) writeConfig(post bool) (any, error) {
	params, err := c.configParams()
	if err != nil {
		return nil, err
	}
	if err := c.refusedAtOnce(params, post); err != nil {
		return nil, err
	}
	if post {
		return c.configTask(params)
	}
	unlock, err := c.sim.lockGuest(c.ctx, c.kind(), c.vmid(), nil)
	if err != nil {
		return nil, err
	}
	defer unlock()
	res, err := c.sim.applyWrite(c.kind(), c.vmid(), c.authid, params, false, "")
	if err != nil {
		return nil, err
	}
	if res.Err != nil {
		return nil, fromConf(res.Err)
	}
	return nil, nil
}

func (c *call) refusedAtOnce(params map[string]string, post bool) error {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := conf.CheckParams(s.major, c.kind(), pickOp(post), params); err != nil {
		return fromConf(err)
	}
	g, err := s.findLocked(c.kind(), c.vmid())
	if err != nil {
		return err
	}
	res := g.conf.Put(s.confRequest(c.authid, params, post))
	if res.Err != nil && res.Guest == g.conf && (res.Err.Status == 400 || res.Err.Status == 403) {
		return fromConf(res.Err)
	}
	return nil
}

func pickOp(post bool) conf.Op {
	if post {
		return conf.PostConfig
	}
	return conf.PutConfig
}

// configTask is a virtual machine's POST: the change is made by a task.
func (c *call) configTask(params map[string]string) (any, error) {
	s, vmid, user := c.sim, c.vmid(), c.authid
	return c.guestTask("qmconfig", func(t *task) error {
		unlock, err := s.lockGuest(t.ctx, guest.QEMU, vmid, t.say)
		if err != nil {
			return err
		}
		defer unlock()
		res, err := s.applyWrite(guest.QEMU, vmid, user, params, true, t.upid)
		if err != nil {
			return err
		}
		for _, line := range res.Log {
			t.say(line + "\n")
		}
		if res.TaskErr != "" {
			return die("%s", res.TaskErr)
		}
		if res.Err != nil {
			return die("%s", res.Err.Message)
		}
		return nil
	})
}

// applyWrite makes the write and keeps what it left behind, also when it was
// refused half-way.
func (s *Sim) applyWrite(kind guest.Kind, vmid int, user string, params map[string]string, post bool, upid string) (conf.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.findLocked(kind, vmid)
	if err != nil {
		return conf.Result{}, err
	}
	if s.noQuorum {
		return conf.Result{}, die("cluster not ready - no quorum?")
	}
	before := g.conf
	res := before.Put(s.confRequest(user, params, post))
	if !res.Written(before) {
		return res, nil
	}
	s.effectsLocked(g, res.Effects)
	s.setConfLocked(g, res.Guest)
	if res.Guest.Text() != before.Text() {
		s.noteLocked(Mutation{Kind: string(kind), VMID: vmid, What: "config", User: user, UPID: upid, Detail: writeDetail(params)})
	}
	return res, nil
}

func writeDetail(params map[string]string) string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(params)) {
		switch k {
		case "digest":
		case "delete", "revert":
			keys = append(keys, k+"="+params[k])
		default:
			keys = append(keys, k)
		}
	}
	return strings.Join(keys, ",")
}

func (s *Sim) effectsLocked(g *guestState, effects []conf.Effect) {
	for _, e := range effects {
		switch e.Op {
		case conf.Allocate, conf.Resize:
			// An image is a whole number of KiB.
			s.putVolume(e.Volume, ceilDiv(e.Size, 1024)*1024, either2(e.Format, formatOf(e.Volume)), g.vmid)
		case conf.Free:
			s.dropVolume(e.Volume)
		}
	}
}

func either2(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (s *Sim) confRequest(user string, params map[string]string, post bool) conf.Request {
	return conf.Request{Version: s.major, Caller: s.confCaller(user), Post: post, Params: params, Env: s.confEnv(user)}
}

func (s *Sim) confCaller(user string) conf.Caller {
	return conf.Caller{User: user, Allowed: func(path, priv string) bool { return s.acl.Perms(user, path).Has(priv) }}
}

// confEnv is what a config write may ask of the node. Needs mu while used.
func (s *Sim) confEnv(user string) *conf.Env {
	env := &conf.Env{
		Storages: map[string]conf.Storage{}, Bridges: map[string]conf.Bridge{},
		Rand: s.rnd.Uint64, Volume: s.confVolume, Volumes: s.confVolumes, Path: s.confPath,
		Host: s.opt.Lacks.conf(s.opt.Host),
	}
	for _, st := range s.storages {
		env.Storages[st.ID] = conf.Storage{Type: st.Type, Path: st.Path, Content: st.Content, Shared: st.Shared}
	}
	for _, b := range s.opt.Bridges {
		env.Bridges[b] = conf.Bridge{}
	}
	env.GuestTags = func() []string { return (&call{sim: s, authid: user}).knownTags() }
	return env
}

func (s *Sim) confVolume(volid string) (conf.Volume, bool) {
	v := s.volume(volid)
	if v == nil {
		return conf.Volume{}, false
	}
	g := s.guests[v.VMID]
	return conf.Volume{Size: v.Size, Format: v.Format, Owner: guest.VMID(v.VMID), InUse: g != nil && g.up}, true
}

func (s *Sim) confVolumes(store string, vmid guest.VMID) []string {
	st := s.storage(store)
	if st == nil {
		return nil
	}
	var out []string
	for id, v := range st.volumes {
		if v.VMID == int(vmid) && v.Content != "backup" {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// confPath looks at the host's files: a snippet by its volume id, anything
// else by its path.
func (s *Sim) confPath(p string) conf.PathKind {
	if store, rest, ok := strings.Cut(p, ":"); ok && strings.HasPrefix(rest, "snippets/") {
		st := s.storage(store)
		if st == nil {
			return conf.PathAbsent
		}
		if st.Snippets != nil {
			return snippetKind(st.Snippets, strings.TrimPrefix(rest, "snippets/"))
		}
		p = st.Path + "/" + rest
	}
	info, err := os.Stat(p)
	switch {
	case err != nil:
		return conf.PathAbsent
	case info.Mode()&os.ModeDevice != 0:
		return conf.PathDevice
	case !info.Mode().IsRegular():
		return conf.PathOther
	case info.Mode()&0o111 != 0:
		return conf.PathExecutable
	}
	return conf.PathFile
}

func snippetKind(m map[string]bool, name string) conf.PathKind {
	exec, ok := m[name]
	switch {
	case !ok:
		return conf.PathAbsent
	case exec:
		return conf.PathExecutable
	}
	return conf.PathFile
}

// applyPendingLocked makes pending changes current, as a start and a
// container's stop do. What cannot be applied stays pending.
func (s *Sim) applyPendingLocked(g *guestState) {
	if len(g.conf.Pending.Values) == 0 && len(g.conf.Delete) == 0 {
		return
	}
	res, _ := g.conf.ApplyPending(s.major, s.confEnv("root@pam"))
	s.setConfLocked(g, res.Guest)
	s.effectsLocked(g, res.Effects)
}

// pendingRows is PendingList as JSON.
func pendingRows(list []conf.PendingEntry) []any {
	out := []any{}
	for _, e := range list {
		m := map[string]any{"key": e.Key}
		if e.Value != nil {
			m["value"] = e.Value
		}
		if e.Pending != nil {
			m["pending"] = e.Pending
		}
		if e.Delete != 0 {
			m["delete"] = e.Delete
		}
		out = append(out, m)
	}
	return out
}
