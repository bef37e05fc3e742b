// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	vmOne = "vmid=300&name=one&memory=64&scsi0=local%3A1%2Cformat%3Dqcow2&net0=virtio%2Cbridge%3Dvmbr0&ostype=l26"
	ctOne = "vmid=200&hostname=one&memory=64&unprivileged=1&ostype=unmanaged&ostemplate=local%3Avztmpl%2Fbox.tar.gz" +
		"&rootfs=local%3A1&mp0=local%3A1%2Cmp%3D%2Fd%2Cbackup%3D1&net0=name%3Deth0%2Cbridge%3Dvmbr0"
)

// lifeBench has a template, a virtual machine 300 and a container 200.
func lifeBench(t *testing.T) *bench {
	t.Helper()
	b := newBench(t, Options{Version: "8.4.21"})
	if err := b.sim.AddVolume(Volume{VolID: "local:vztmpl/box.tar.gz", Content: "vztmpl", Format: "tgz", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	b.ok(b.task("/nodes/pve1/qemu", vmOne))
	b.ok(b.task("/nodes/pve1/lxc", ctOne))
	return b
}

func (b *bench) ok(status string) {
	b.t.Helper()
	if status != "OK" {
		b.t.Fatalf("status %q", status)
	}
}

// call makes a call that must succeed and returns its data.
func (b *bench) call(method, path, form string) any {
	b.t.Helper()
	code, reason, data := b.do(method, path, form)
	if code != 200 {
		b.t.Fatalf("%s %s: %d %s", method, path, code, reason)
	}
	return data
}

// end makes a call whose answer is a task and returns its status.
func (b *bench) end(method, path, form string) string {
	b.t.Helper()
	return b.status(b.call(method, path, form).(string))
}

// identity is what makes a guest the same one: by key, without the rest.
func (b *bench) identity(kind guest.Kind, vmid int) map[string]string {
	b.t.Helper()
	cfg := b.call("GET", fmt.Sprintf("/nodes/pve1/%s/%d/config", kind, vmid), "").(map[string]any)
	out := map[string]string{}
	for k, v := range cfg {
		s, _ := v.(string)
		switch {
		case strings.HasPrefix(k, "net"):
			out["mac"] = macRE.FindString(s)
		case k == "smbios1", k == "vmgenid", k == "meta":
			out[k] = s
		}
	}
	return out
}

// TestIdentity is what survives, as recorded: edits keep everything, a
// re-creation nothing, a restore the addresses unless it is to be unique, a
// clone nothing but the creation stamp, a rollback all but the generation id.
func TestIdentity(t *testing.T) {
	vm, ct := "/nodes/pve1/qemu/300", "/nodes/pve1/lxc/200"
	restore := "&ostemplate=%s&restore=1&storage=local"
	for _, tc := range []struct {
		name string
		kind guest.Kind
		vmid int
		do   func(*bench, string) // the string is a backup of the container
		keep []string
	}{
		{"edit of a machine", guest.QEMU, 300, func(b *bench, _ string) { b.call("PUT", vm+"/config", "memory=96&name=two") }, []string{"mac", "smbios1", "vmgenid", "meta"}},
		{"rollback", guest.QEMU, 300, func(b *bench, _ string) {
			b.ok(b.end("POST", vm+"/snapshot", "snapname=s1"))
			b.ok(b.end("POST", vm+"/snapshot/s1/rollback", ""))
		}, []string{"mac", "smbios1", "meta"}},
		{"re-creation of a machine", guest.QEMU, 300, func(b *bench, _ string) {
			b.ok(b.end("DELETE", vm, ""))
			b.ok(b.end("POST", "/nodes/pve1/qemu", vmOne))
		}, nil},
		{"clone of a machine", guest.QEMU, 301, func(b *bench, _ string) { b.ok(b.end("POST", vm+"/clone", "newid=301&full=1")) }, []string{"meta"}},
		{"edit of a container", guest.LXC, 200, func(b *bench, _ string) { b.call("PUT", ct+"/config", "memory=96") }, []string{"mac"}},
		{"restore over", guest.LXC, 200, func(b *bench, v string) {
			b.ok(b.end("POST", "/nodes/pve1/lxc", "vmid=200&force=1"+fmt.Sprintf(restore, v)))
		}, []string{"mac"}},
		{"restore, unique", guest.LXC, 201, func(b *bench, v string) {
			b.ok(b.end("POST", "/nodes/pve1/lxc", "vmid=201&unique=1"+fmt.Sprintf(restore, v)))
		}, nil},
		{"clone of a container", guest.LXC, 201, func(b *bench, _ string) { b.ok(b.end("POST", ct+"/clone", "newid=201")) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := lifeBench(t)
				from := 300
				if tc.kind == guest.LXC {
					from = 200
				}
				before := b.identity(tc.kind, from)
				b.ok(b.task("/nodes/pve1/vzdump", "vmid=200&storage=local&mode=stop"))
				tc.do(b, url.QueryEscape(b.backups(200)[0]))
				after := b.identity(tc.kind, tc.vmid)
				var kept []string
				for _, k := range []string{"mac", "smbios1", "vmgenid", "meta"} {
					if before[k] != "" && before[k] == after[k] {
						kept = append(kept, k)
					}
				}
				if diff := cmp.Diff(tc.keep, kept); diff != "" {
					t.Errorf("kept (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// backups are a guest's backups by volume id.
func (b *bench) backups(vmid int) []string {
	b.t.Helper()
	var out []string
	for _, v := range b.call("GET", fmt.Sprintf("/nodes/pve1/storage/local/content?content=backup&vmid=%d", vmid), "").([]any) {
		out = append(out, v.(map[string]any)["volid"].(string))
	}
	return out
}

// volumes are the images of a guest.
func (b *bench) volumes(vmid int) []string {
	b.t.Helper()
	var out []string
	for _, v := range b.call("GET", fmt.Sprintf("/nodes/pve1/storage/local/content?vmid=%d", vmid), "").([]any) {
		if m := v.(map[string]any); m["content"] != "backup" && m["content"] != "snippets" {
			out = append(out, m["volid"].(string))
		}
	}
	return out
}

func TestSnapshotTree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		vm := "/nodes/pve1/qemu/300"
		for _, s := range []string{"aa", "bb", "cc"} {
			b.ok(b.end("POST", vm+"/snapshot", "snapname="+s))
		}
		b.ok(b.end("DELETE", vm+"/snapshot/bb", ""))
		parents := map[string]string{}
		for _, v := range b.call("GET", vm+"/snapshot", "").([]any) {
			m := v.(map[string]any)
			p, _ := m["parent"].(string)
			parents[m["name"].(string)] = p
		}
		if diff := cmp.Diff(map[string]string{"aa": "", "cc": "aa", "current": "cc"}, parents); diff != "" {
			t.Errorf("parents (-want +got):\n%s", diff)
		}
		b.ok(b.end("DELETE", vm, ""))
		if left := b.volumes(300); left != nil {
			t.Errorf("volumes after destroy: %v", left)
		}
	})
}

// TestSnapshotRefused: what a directory cannot do is found out in the task,
// what a name may not be before it.
func TestSnapshotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		if st := b.end("POST", "/nodes/pve1/lxc/200/snapshot", "snapname=s1"); st != "snapshot feature is not available" {
			t.Errorf("container on a directory: %q", st)
		}
		if code, reason, _ := b.do("POST", "/nodes/pve1/qemu/300/snapshot", "snapname=current"); code != 500 || !strings.Contains(reason, "reserved name") {
			t.Errorf("reserved name: %d %s", code, reason)
		}
		b.ok(b.end("PUT", "/nodes/pve1/qemu/300/resize", "disk=scsi0&size=%2B1G"))
		b.call("PUT", "/nodes/pve1/qemu/300/config", "scsi1=local%3A1") // raw
		if st := b.end("POST", "/nodes/pve1/qemu/300/snapshot", "snapname=s1"); st != "snapshot feature is not available" {
			t.Errorf("machine with a raw image: %q", st)
		}
	})
}

// TestTemplate: a template lends its images to linked clones and cannot lose
// them while it has any.
func TestTemplate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		vm := "/nodes/pve1/qemu/300"
		if code, _, _ := b.do("POST", vm+"/clone", "newid=301&full=0"); code != 500 {
			t.Errorf("linked clone of what is no template: %d", code)
		}
		b.ok(b.end("POST", vm+"/template", ""))
		if st := b.end("POST", vm+"/status/start", ""); st != "you can't start a vm if it's a template" {
			t.Errorf("start: %q", st)
		}
		b.ok(b.end("POST", vm+"/clone", "newid=301"))
		want := []string{"local:300/base-300-disk-0.qcow2/301/vm-301-disk-0.qcow2"}
		if diff := cmp.Diff(want, b.volumes(301)); diff != "" {
			t.Errorf("volumes of the clone (-want +got):\n%s", diff)
		}
		b.ok(b.end("DELETE", vm, ""))
		if diff := cmp.Diff([]string{"local:300/base-300-disk-0.qcow2"}, b.volumes(300)); diff != "" {
			t.Errorf("base volume (-want +got):\n%s", diff)
		}
	})
}

// TestDestroyForgets: grants on a guest and its place in a pool go with it,
// volumes its config does not name stay unless asked for.
func TestDestroyForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		b.sim.Grant(Grant{Path: "/vms/200", Who: "agent@pve", Role: "Administrator"})
		b.call("POST", "/pools", "poolid=p")
		b.call("PUT", "/pools/p", "vms=200,300")
		if err := b.sim.AddVolume(Volume{VolID: "local:200/vm-200-disk-7.raw", Content: "rootdir", Format: "raw", Size: 1 << 30, VMID: 200}); err != nil {
			t.Fatal(err)
		}
		b.ok(b.end("DELETE", "/nodes/pve1/lxc/200", ""))
		if diff := cmp.Diff([]string{"local:200/vm-200-disk-7.raw"}, b.volumes(200)); diff != "" {
			t.Errorf("volumes (-want +got):\n%s", diff)
		}
		for _, e := range b.call("GET", "/access/acl", "").([]any) {
			if e.(map[string]any)["path"] == "/vms/200" {
				t.Error("the grant on the guest is still there")
			}
		}
		members := b.call("GET", "/pools/p", "").(map[string]any)["members"].([]any)
		if len(members) != 1 || members[0].(map[string]any)["id"] != "qemu/300" {
			t.Errorf("members: %v", members)
		}
	})
}

func TestBackupRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		dump := func(more string) string { return b.task("/nodes/pve1/vzdump", "vmid=200&storage=local&mode=stop"+more) }
		b.ok(dump("&protected=1"))
		b.ok(dump(""))
		b.ok(dump("&prune-backups=keep-last%3D1"))
		if got := b.backups(200); len(got) != 2 {
			t.Errorf("backups after pruning: %v, want the protected and the last", got)
		}
		if st := dump("&prune-backups=keep-last%3D1&remove=0"); st != "job errors" {
			t.Errorf("a backup too many: %q", st)
		}
		id := url.PathEscape(b.backups(200)[0])
		if st := b.end("DELETE", "/nodes/pve1/storage/local/content/"+id, ""); !strings.HasPrefix(st, "cannot remove protected volume") {
			t.Errorf("removal of a protected backup: %q", st)
		}
	})
}

func TestMoveDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		vm := "/nodes/pve1/qemu/300"
		b.ok(b.end("POST", vm+"/move_disk", "disk=scsi0&storage=local&format=raw"))
		cfg := b.call("GET", vm+"/config", "").(map[string]any)
		if cfg["scsi0"] != "local:300/vm-300-disk-1.raw,size=1G" || cfg["unused0"] != "local:300/vm-300-disk-0.qcow2" {
			t.Errorf("after the move: %v, %v", cfg["scsi0"], cfg["unused0"])
		}
		b.ok(b.task("/nodes/pve1/qemu", "vmid=301"))
		b.ok(b.end("POST", vm+"/move_disk", "disk=unused0&target-vmid=301&target-disk=scsi3"))
		if got := b.call("GET", "/nodes/pve1/qemu/301/config", "").(map[string]any)["scsi3"]; got != "local:301/vm-301-disk-0.qcow2,size=1G" {
			t.Errorf("reassigned: %v", got)
		}
		if st := b.end("POST", "/nodes/pve1/lxc/200/move_volume", "volume=mp0&storage=local&delete=1"); st != "OK" {
			t.Errorf("move of a container's volume: %q", st)
		}
	})
}

// TestSuspendToDisk: a hibernated machine is stopped under a lock, and wakes
// without its saved memory left over.
func TestSuspendToDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		vm := "/nodes/pve1/qemu/300"
		b.ok(b.end("POST", vm+"/status/start", ""))
		b.ok(b.end("POST", vm+"/status/suspend", "todisk=1"))
		st := b.call("GET", vm+"/status/current", "").(map[string]any)
		if st["status"] != "stopped" || st["lock"] != "suspended" {
			t.Errorf("suspended: status %v, lock %v", st["status"], st["lock"])
		}
		if got := len(b.volumes(300)); got != 2 {
			t.Errorf("%d volumes, want the disk and the memory", got)
		}
		b.ok(b.end("POST", vm+"/status/resume", ""))
		st = b.call("GET", vm+"/status/current", "").(map[string]any)
		if st["status"] != "running" || st["lock"] != nil || len(b.volumes(300)) != 1 {
			t.Errorf("resumed: status %v, lock %v, volumes %v", st["status"], st["lock"], b.volumes(300))
		}
	})
}

// TestInterimLocks: what others see of a guest that is being copied, made or
// taken away.
func TestInterimLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := lifeBench(t)
		lock := func(path string) any {
			_, _, data := b.do("GET", "/nodes/pve1/"+path+"/config", "")
			cfg, _ := data.(map[string]any)
			return cfg["lock"]
		}
		upid := b.call("POST", "/nodes/pve1/lxc/200/clone", "newid=201").(string)
		if got := lock("lxc/200"); got != "disk" {
			t.Errorf("source of a clone: lock %v", got)
		}
		if got := lock("lxc/201"); got != "create" {
			t.Errorf("target of a clone: lock %v", got)
		}
		b.ok(b.status(upid))
		if got := lock("lxc/200"); got != nil {
			t.Errorf("source after the clone: lock %v", got)
		}
		upid = b.call("DELETE", "/nodes/pve1/lxc/201", "").(string)
		time.Sleep(90 * time.Millisecond)
		if got := lock("lxc/201"); got != "destroyed" {
			t.Errorf("on its way out: lock %v", got)
		}
		b.ok(b.status(upid))
	})
}
