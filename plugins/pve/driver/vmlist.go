// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// vmList is the cluster file system's .vmlist with the start time from the
// .version beside it. The counters are those of one run of pmxcfs.
type vmList struct {
	StartTime int64
	Version   int64
	IDs       map[guest.VMID]vmEntry
}

// vmEntry is a guest's entry; its version rises with each write to or move of
// the config, on any node.
type vmEntry struct {
	Node    string `json:"node"`
	Type    string `json:"type"`
	Version int64  `json:"version"`
}

// readVMList reads both files. A directory that is there but not mounted has
// neither, and is an error.
func readVMList(path string) (vmList, error) {
	var version struct {
		StartTime int64 `json:"starttime"`
	}
	if err := readJSON(filepath.Join(filepath.Dir(path), ".version"), &version); err != nil {
		return vmList{}, err
	}
	var raw struct {
		Version *int64             `json:"version"`
		IDs     map[string]vmEntry `json:"ids"`
	}
	if err := readJSON(path, &raw); err != nil {
		return vmList{}, err
	}
	if raw.Version == nil {
		return vmList{}, fmt.Errorf("%s: no version in it", path)
	}
	out := vmList{StartTime: version.StartTime, Version: *raw.Version, IDs: make(map[guest.VMID]vmEntry, len(raw.IDs))}
	for s, e := range raw.IDs {
		v, err := guest.ParseVMID(s)
		if err != nil {
			return vmList{}, fmt.Errorf("%s: %w", path, err)
		}
		out.IDs[v] = e
	}
	return out, nil
}

func readJSON(path string, into any) error {
	data, err := readFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// since lists the guests whose entries differ from those of old, in order. all
// means that the counters cannot be compared.
func (l vmList) since(old vmList) (changed []guest.VMID, all bool) {
	if l.StartTime != old.StartTime || l.Version < old.Version {
		return nil, true
	}
	if l.Version == old.Version {
		return nil, false
	}
	for v, e := range l.IDs {
		was, ok := old.IDs[v]
		if ok && e.Version < was.Version {
			return nil, true
		}
		if !ok || e != was {
			changed = append(changed, v)
		}
	}
	for v := range old.IDs {
		if _, ok := l.IDs[v]; !ok {
			changed = append(changed, v)
		}
	}
	slices.Sort(changed)
	return changed, false
}
