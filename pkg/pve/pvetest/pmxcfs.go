// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// counters are what pmxcfs counts: one number per guest config, one for the
// list, and the start time of the process, which invalidates them.
type counters struct {
	start  int64
	vmlist int
	guests map[int]int
}

// touchLocked counts a write of a guest's config and brings the directory up
// to date.
func (s *Sim) touchLocked(g *guestState) {
	if s.versions.guests == nil {
		s.versions.guests = map[int]int{}
	}
	s.versions.vmlist++
	s.versions.guests[g.vmid] = s.versions.vmlist
	s.writeEtc(g)
}

// forgetLocked counts the removal of a guest's config.
func (s *Sim) forgetLocked(g *guestState) {
	s.versions.vmlist++
	delete(s.versions.guests, g.vmid)
	if s.opt.EtcPVE == "" {
		return
	}
	if err := os.Remove(s.configFile(g)); err != nil {
		s.log.Warn("etc-pve", "error", err)
	}
	s.writeLists()
}

// ResetCounters makes pmxcfs forget its counts, as its restart does.
func (s *Sim) ResetCounters() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.versions.start = s.now().Unix()
	s.versions.vmlist = 1
	for id := range s.versions.guests {
		s.versions.guests[id] = 1
	}
	s.writeLists()
}

func (s *Sim) configFile(g *guestState) string {
	return filepath.Join(s.opt.EtcPVE, "nodes", s.opt.Node, pick(g.kind, "lxc", "qemu-server"), strconv.Itoa(g.vmid)+".conf")
}

func (s *Sim) writeEtc(g *guestState) {
	if s.opt.EtcPVE == "" {
		return
	}
	if err := writeFile(s.configFile(g), []byte(g.conf.Text())); err != nil {
		s.log.Warn("etc-pve", "error", err)
	}
	s.writeLists()
}

func (s *Sim) writeLists() {
	if s.opt.EtcPVE == "" {
		return
	}
	for name, v := range map[string]any{".vmlist": s.vmlistLocked(), ".version": s.versionLocked()} {
		b, err := json.MarshalIndent(v, "", " ")
		if err == nil {
			err = writeFile(filepath.Join(s.opt.EtcPVE, name), append(b, '\n'))
		}
		if err != nil {
			s.log.Warn("etc-pve", "error", err)
		}
	}
}

func (s *Sim) vmlistLocked() map[string]any {
	ids := map[string]any{}
	for id, g := range s.guests {
		ids[strconv.Itoa(id)] = map[string]any{"node": s.opt.Node, "type": string(g.kind), "version": s.versions.guests[id]}
	}
	for id, p := range s.elsewhere {
		ids[strconv.Itoa(id)] = map[string]any{"node": p.node, "type": string(p.kind), "version": 1}
	}
	return map[string]any{"version": s.versions.vmlist, "ids": ids}
}

func (s *Sim) versionLocked() map[string]any {
	return map[string]any{"starttime": s.versions.start, "clinfo": 1, "vmlist": s.versions.vmlist}
}

// writeFile replaces a file so that a reader never sees half of it.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	tmp := path + ".tmp." + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(tmp, b, 0o640); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
