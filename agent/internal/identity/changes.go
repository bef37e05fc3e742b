// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"maps"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Fields of evidence that stand for many. All other fields are config keys:
// "net0", "scsi1", "rootfs", "smbios1", "meta".
const (
	AllAddresses = "net*"    // every hardware address
	AllVolumes   = "volume*" // every volume id
	Everything   = "*"
)

// Changes are the fields of evidence that an action of ours may change, sorted,
// to be written with its intent. Whatever it may change is not evidence
// against the guest until it has been recorded anew.
//
// A start changes none though it applies what waits for a restart: the config
// that is read shows that before. Growing a disk, snapshots and backups leave
// volume ids as they are. A kind that is not the core's explains nothing.
func Changes(a plugin.Action) []string {
	switch a.Kind {
	case plugin.SetConfig:
		return written(a)
	case plugin.Rollback:
		return []string{AllAddresses, "smbios1", AllVolumes}
	case plugin.Provision, plugin.Restore, plugin.Destroy:
		return []string{Everything}
	}
	return nil
}

// written are the keys that a set_config writes and that hold evidence.
func written(a plugin.Action) []string {
	keys := slices.Concat(slices.Collect(maps.Keys(a.Set)), a.Delete)
	keys = slices.DeleteFunc(keys, func(key string) bool {
		vm := a.Guest.Kind == guest.QEMU && (key == "smbios1" || key == "meta")
		return !vm && !isNet(key) && !isVolume(a.Guest.Kind, key)
	})
	slices.Sort(keys)
	return slices.Compact(keys)
}

// explains reports whether the explained fields cover that one.
func explains(explained []string, kind guest.Kind, field string) bool {
	return slices.Contains(explained, field) || slices.Contains(explained, Everything) ||
		isNet(field) && slices.Contains(explained, AllAddresses) ||
		isVolume(kind, field) && slices.Contains(explained, AllVolumes)
}
