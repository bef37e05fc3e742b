// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// template is what containers are made from here.
const template = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"

// onZFS puts every guest on storage that has snapshots, with a template and
// room for them.
func onZFS(o *pvetest.Options, _ *Options) {
	o.Storages = []pvetest.Storage{
		{ID: "local", Volumes: []pvetest.Volume{{VolID: template, Content: "vztmpl", Format: "tzst", Size: 100 << 20}}},
		{ID: "tank", Type: "zfspool", Content: []string{"images", "rootdir"}},
	}
	o.Storages[0].Total = 1 << 40
	o.Storages[1].Total = 1 << 40
	for i := range o.Guests {
		g := &o.Guests[i]
		if g.Kind == guest.LXC {
			g.Config["rootfs"] = fmt.Sprintf("tank:subvol-%d-disk-0,size=1G", g.VMID)
		} else {
			g.Config["scsi0"] = fmt.Sprintf("tank:vm-%d-disk-0,size=2G", g.VMID)
		}
	}
}

func withParams(a plugin.Action, pairs ...string) plugin.Action {
	a.Params = map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		a.Params[pairs[i]] = pairs[i+1]
	}
	return a
}

func backupOf(vmid guest.VMID, storage string) plugin.Action {
	return withParams(act(plugin.Backup, guest.LXC, vmid), "storage", storage)
}

// resting is an action that rests on the present config.
func (r *rig) resting(a plugin.Action) plugin.Action {
	r.t.Helper()
	conf, err := r.pve.Config(context.Background(), r.ref(a.Guest))
	if err != nil {
		r.t.Fatal(err)
	}
	a.Digest = conf.Digest
	return a
}

// must carries out an action that has to succeed.
func (r *rig) must(a plugin.Action) result {
	r.t.Helper()
	got := apply(context.Background(), r.Driver, a, "")
	if got.err != nil || got.Status != plugin.Done {
		r.t.Fatalf("%s of %s: %+v", a.Kind, a.Guest, got)
	}
	return got
}

// twoKinds are a stopped container and a stopped virtual machine.
var twoKinds = []guest.ID{{Kind: guest.LXC, VMID: 101}, {Kind: guest.QEMU, VMID: 201}}

// lifeCase makes an action of one kind about a guest of one kind, and what has
// to be there for it.
type lifeCase struct {
	name string
	// prepare returns the action, ready to be sent.
	prepare func(r *rig, id guest.ID) plugin.Action
	// change is what the node then notes, "" if it is not noted.
	change string
	// task is the type of its task.
	task map[guest.Kind]string
}

func free(id guest.ID) guest.ID { return guest.ID{Kind: id.Kind, VMID: id.VMID + 50} }

func (r *rig) backupVolume(id guest.ID) string {
	r.t.Helper()
	got := r.must(withParams(act(plugin.Backup, id.Kind, id.VMID), "storage", "local"))
	if got.Params["volume"] == "" {
		r.t.Fatalf("the backup tells no volume: %+v", got)
	}
	return got.Params["volume"]
}

func (r *rig) snap(id guest.ID, name string) {
	r.t.Helper()
	r.must(withParams(act(plugin.TakeSnapshot, id.Kind, id.VMID), "name", name))
}

func both(vz, qm string) map[guest.Kind]string {
	return map[guest.Kind]string{guest.LXC: vz, guest.QEMU: qm}
}

func lifeCases() []lifeCase {
	on := func(k plugin.ActionKind, id guest.ID, pairs ...string) plugin.Action {
		return withParams(act(k, id.Kind, id.VMID), pairs...)
	}
	return []lifeCase{
		{"create", func(r *rig, id guest.ID) plugin.Action {
			a := on(plugin.Provision, free(id), "how", "template", "storage", "tank")
			a.Set = map[string]string{"memory": "256", "cores": "1", "description": "made by " + a.OpID}
			if id.Kind == guest.LXC {
				a.Params["source"] = template
				a.Set["rootfs"], a.Set["hostname"] = "tank:2", "new"
			} else {
				a.Set["scsi0"], a.Set["name"] = "tank:2", "new"
			}
			return a
		}, "create", both("vzcreate", "qmcreate")},
		{"restore to a new VMID", func(r *rig, id guest.ID) plugin.Action {
			return on(plugin.Provision, free(id), "how", "backup", "source", r.backupVolume(id), "storage", "tank")
		}, "restore", both("vzrestore", "qmrestore")},
		{"clone", func(r *rig, id guest.ID) plugin.Action {
			a := on(plugin.Provision, free(id), "how", "clone", "source", id.VMID.String())
			a.Set = map[string]string{map[guest.Kind]string{guest.LXC: "hostname", guest.QEMU: "name"}[id.Kind]: "copy"}
			return a
		}, "clone", both("vzclone", "qmclone")},
		{"grow", func(r *rig, id guest.ID) plugin.Action {
			key := map[guest.Kind]string{guest.LXC: "rootfs", guest.QEMU: "scsi0"}[id.Kind]
			return r.resting(on(plugin.GrowDisk, id, "disk", key, "size", fmt.Sprint(int64(3)<<30)))
		}, "resize", both("resize", "resize")},
		{"snapshot", func(r *rig, id guest.ID) plugin.Action {
			return on(plugin.TakeSnapshot, id, "name", "before", "description", "before it\ngoes on")
		}, "snapshot before", both("vzsnapshot", "qmsnapshot")},
		{"backup", func(r *rig, id guest.ID) plugin.Action {
			return on(plugin.Backup, id, "storage", "local", "mode", "stop", "notes", "two\nlines \\ one")
		}, "backup local:backup/vzdump-", both("vzdump", "vzdump")},
		{"rollback", func(r *rig, id guest.ID) plugin.Action {
			r.snap(id, "before")
			return on(plugin.Rollback, id, "name", "before")
		}, "rollback before", both("vzrollback", "qmrollback")},
		{"restore over", func(r *rig, id guest.ID) plugin.Action {
			return r.resting(on(plugin.Restore, id, "source", r.backupVolume(id), "storage", "tank"))
		}, "restore", both("vzrestore", "qmrestore")},
		{"destroy", func(r *rig, id guest.ID) plugin.Action {
			if err := r.sim.EditConfig(int(id.VMID), map[string]string{"protection": "1"}); err != nil {
				r.t.Fatal(err)
			}
			return r.resting(on(plugin.Destroy, id, "purge", "1"))
		}, "destroy", both("vzdestroy", "qmdestroy")},
		{"delete snapshot", func(r *rig, id guest.ID) plugin.Action {
			r.snap(id, "before")
			return on(plugin.DeleteSnapshot, id, "name", "before")
		}, "delsnapshot before", both("vzdelsnapshot", "qmdelsnapshot")},
		{"delete backup", func(r *rig, id guest.ID) plugin.Action {
			return on(plugin.DeleteBackup, id, "volume", r.backupVolume(id))
		}, "delete volume local:backup/vzdump-", both("imgdel", "imgdel")},
		{"delete volume", func(r *rig, id guest.ID) plugin.Action {
			return on(plugin.DeleteVolume, id, "volume", r.strayVolume(id))
		}, "delete volume tank:", both("imgdel", "imgdel")},
	}
}

// strayVolume is a volume of the guest that no config names: what a disk that
// was detached by hand leaves.
func (r *rig) strayVolume(id guest.ID) string {
	r.t.Helper()
	volid := map[guest.Kind]string{guest.LXC: "tank:subvol-%d-disk-7", guest.QEMU: "tank:vm-%d-disk-7"}[id.Kind]
	volid = fmt.Sprintf(volid, id.VMID)
	for _, v := range []string{volid, ""} {
		if err := r.sim.EditConfig(int(id.VMID), map[string]string{"unused0": v}); err != nil {
			r.t.Fatal(err)
		}
	}
	return volid
}

// each runs f for every case and kind of guest, on a fresh node each.
func eachLife(t *testing.T, f func(t *testing.T, r *rig, c lifeCase, id guest.ID)) {
	for _, c := range lifeCases() {
		for _, id := range twoKinds {
			t.Run(c.name+"/"+string(id.Kind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t, onZFS)
					r.history()
					f(t, r, c, id)
				})
			})
		}
	}
}

// changesOf are the changes without those of the protection, which a destroy
// makes on its way.
func (r *rig) changesOf(a plugin.Action, n int) []string {
	out := r.changes(n)
	if a.Kind == plugin.Destroy && len(out) > 0 && strings.HasPrefix(out[0], "config") {
		return out[1:]
	}
	return out
}

// one fails unless exactly the case's change was made.
func (c lifeCase) one(t *testing.T, r *rig, a plugin.Action, n int) {
	t.Helper()
	got := r.changesOf(a, n)
	if len(got) != 1 || !strings.HasPrefix(got[0], c.change) {
		t.Errorf("changes %q, want one %q", got, c.change)
	}
}

// TestLife: each kind does what it says, once, under one handle of its type,
// and a later process tells the same end.
func TestLife(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		n := len(r.sim.Record())
		got := r.must(a)
		c.one(t, r, a, n)
		if len(got.handles) != 1 || !strings.Contains(got.handles[0], ":"+c.task[id.Kind]+":") {
			t.Fatalf("handles %q, want one of type %s", got.handles, c.task[id.Kind])
		}
		if got.Undo != nil {
			t.Errorf("an undo: %+v", got.Undo)
		}
		later := apply(t.Context(), r.driver("full", secretFull, Options{}), a, got.handles[0])
		if diff := cmp.Diff(got.Outcome, later.Outcome); later.err != nil || diff != "" {
			t.Errorf("a later process: %v (-first +later):\n%s", later.err, diff)
		}
		again := apply(t.Context(), r.Driver, a, "")
		if again.Status != plugin.Done {
			t.Errorf("the same attempt again: %+v", again)
		}
		c.one(t, r, a, n)
	})
}

// TestMade: what is made is as it should be, and does not run.
func TestMade(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		if a.Kind != plugin.Provision {
			return
		}
		r.must(a)
		conf, err := r.pve.Config(t.Context(), r.ref(a.Guest))
		if err != nil {
			t.Fatal(err)
		}
		if r.run(a.Guest.Kind, a.Guest.VMID) != guest.Stopped || conf.Lock != "" {
			t.Errorf("it runs, or is locked: %q", conf.Lock)
		}
		for k, v := range a.Set {
			if got := strings.TrimSuffix(conf.Values[k], "\n"); got != v && !diskKey.MatchString(k) {
				t.Errorf("%s is %q, want %q", k, got, v)
			}
		}
		src, err := r.pve.Config(t.Context(), r.ref(id))
		if err != nil {
			t.Fatal(err)
		}
		if a.Params["how"] != byTemplate && conf.Values["net0"] == src.Values["net0"] {
			t.Errorf("the hardware address is that of %s: %s", id, conf.Values["net0"])
		}
		if a.Guest.Kind == guest.LXC && conf.Values["unprivileged"] != "1" {
			t.Error("the container is privileged")
		}
	})
}

// TestNotesOfABackup: they arrive as they are, and no other backup goes.
func TestNotesOfABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(o *pvetest.Options, _ *Options) { o.Storages = []pvetest.Storage{{ID: "local"}} })
		const notes = "two\nlines \\ one"
		a := backupOf(101, "local")
		a.Params["notes"] = notes
		first := r.must(a).Params["volume"]
		second := r.backupVolume(a.Guest)
		inv := inventoryOf(t, r.Driver, 101)
		if len(inv.Backups) != 2 || inv.Backups[0].Volume != second && inv.Backups[1].Volume != second || first == second {
			t.Errorf("%s, %s: %+v", first, second, inv.Backups)
		}
		data, err := r.pve.Call(t.Context(), "GET", "/nodes/pve1/storage/local/content/"+first, nil)
		if err != nil || !strings.Contains(string(data), `"notes":"two\nlines \\ one"`) {
			t.Errorf("%s, %v", data, err)
		}
	})
}

// TestBackupOfNobody: PVE answers "OK" and does nothing.
func TestBackupOfNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.twisted("POST", "/vzdump", `{"data":"OK"}`)
		if got := apply(t.Context(), r.Driver, backupOf(101, "local"), ""); got.Status != plugin.Refused || got.err != nil {
			t.Errorf("%+v", got)
		}
	})
}

// TestLifeOfALockedGuest: it is left alone.
func TestLifeOfALockedGuest(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		if a.Kind == plugin.DeleteBackup || a.Kind == plugin.Provision && a.Params["how"] != byClone {
			return // nothing works on what they touch
		}
		if err := r.sim.SetLock(int(id.VMID), "backup"); err != nil {
			t.Fatal(err)
		}
		n := len(r.sim.Record())
		got := apply(t.Context(), r.Driver, a, "")
		if got.err != nil || got.Status != plugin.Retry || got.Reason != reasonLocked {
			t.Errorf("%+v", got)
		}
		if ch := r.changes(n); len(ch) > 0 {
			t.Errorf("changes: %q", ch)
		}
	})
}

// TestLifeOfAnotherGuest: with a digest that is not the config's nothing is
// sent; what was approved is refused, what was planned is planned anew.
func TestLifeOfAnotherGuest(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		if a.Digest == "" {
			return
		}
		if err := r.sim.EditConfig(int(id.VMID), map[string]string{"cores": "3"}); err != nil {
			t.Fatal(err)
		}
		n := len(r.sim.Record())
		got := apply(t.Context(), r.Driver, a, "")
		want := plugin.Refused
		if a.Kind == plugin.GrowDisk {
			want = plugin.Retry
		}
		if got.err != nil || got.Status != want || len(r.changes(n)) > 0 {
			t.Errorf("want %s without a change: %+v, %q", want, got, r.changes(n))
		}
	})
}

// TestLifeOfNoGuest: it is not there.
func TestLifeOfNoGuest(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		if a.Kind == plugin.Provision && a.Params["how"] != byClone || a.Kind == plugin.DeleteBackup || a.Kind == plugin.DeleteVolume {
			return
		}
		if err := r.sim.Remove(int(id.VMID)); err != nil {
			t.Fatal(err)
		}
		if got := apply(t.Context(), r.Driver, a, ""); got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, "does not exist") {
			t.Errorf("%+v", got)
		}
	})
}

// TestFailedTasks: a task that fails is failed, with PVE's words, and one that
// ends without a word is not known.
func TestFailedTasks(t *testing.T) {
	for reason, want := range map[string]plugin.Status{"something is broken": plugin.Failed, "unexpected status": plugin.Unknown} {
		eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
			a := c.prepare(r, id)
			if _, err := r.sim.Inject(pvetest.Fault{Kind: pvetest.FaultTask, Task: c.task[id.Kind], Reason: reason}); err != nil {
				t.Fatal(err)
			}
			n := len(r.sim.Record())
			got := apply(t.Context(), r.Driver, a, "")
			if got.err != nil || got.Status != want || !strings.Contains(got.Message, reason) {
				t.Errorf("%+v", got)
			}
			if ch := r.changesOf(a, n); want == plugin.Failed && len(ch) > 0 {
				t.Errorf("changes %q", ch)
			}
			if len(got.handles) != 1 {
				t.Fatalf("handles %q", got.handles)
			}
			v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: got.handles[0]})
			switch {
			case err != nil:
				t.Error(err)
			case want == plugin.Failed && (v.Finding != plugin.Settled || v.Outcome.Status != plugin.Failed):
				t.Errorf("%+v", v)
			case want == plugin.Unknown && a.Kind != plugin.Rollback && a.Kind != plugin.Restore &&
				(v.Finding != plugin.Settled || v.Outcome.Status != plugin.Done):
				t.Errorf("it happened: %+v", v)
			case want == plugin.Unknown && (a.Kind == plugin.Rollback || a.Kind == plugin.Restore) && v.Finding != plugin.Unclear:
				t.Errorf("nothing shows it: %+v", v)
			}
		})
	}
}

// TestParametersThatMakeNoSense: nothing is sent.
func TestParametersThatMakeNoSense(t *testing.T) {
	lxc, vm := guest.ID{Kind: guest.LXC, VMID: 101}, guest.ID{Kind: guest.QEMU, VMID: 201}
	on := func(k plugin.ActionKind, id guest.ID, pairs ...string) plugin.Action {
		a := withParams(act(k, id.Kind, id.VMID), pairs...)
		a.Digest = "d"
		return a
	}
	set := func(a plugin.Action, key string) plugin.Action { a.Set = map[string]string{key: "1"}; return a }
	bare := func(a plugin.Action) plugin.Action { a.Digest = ""; return a }
	const ctBackup, vmBackup = "local:backup/vzdump-lxc-101-2026_11_23-09_02_37.tar.zst", "pbs:backup/vm/201/2026-11-23T09:02:37Z"
	bad := map[string]plugin.Action{
		"how":                     on(plugin.Provision, lxc, "how", "magic", "source", template),
		"no how":                  on(plugin.Provision, lxc),
		"template of no template": on(plugin.Provision, lxc, "how", "template", "source", "local:iso/x.iso"),
		"template that escapes":   on(plugin.Provision, lxc, "how", "template", "source", "local:vztmpl/../../etc/passwd"),
		"template of a machine":   on(plugin.Provision, vm, "how", "template", "source", template),
		"backup of a machine":     on(plugin.Provision, lxc, "how", "backup", "source", vmBackup),
		"backup of nothing":       on(plugin.Provision, lxc, "how", "backup", "source", "local:101/vm-101-disk-0.raw"),
		"clone of itself":         on(plugin.Provision, lxc, "how", "clone", "source", "101"),
		"clone of a name":         on(plugin.Provision, lxc, "how", "clone", "source", "web"),
		"clone with cores":        set(on(plugin.Provision, lxc, "how", "clone", "source", "102"), "cores"),
		"backup with a disk":      set(on(plugin.Provision, lxc, "how", "backup", "source", ctBackup), "mp0"),
		"machine backup with key": set(on(plugin.Provision, vm, "how", "backup", "source", vmBackup), "cores"),
		"lock":                    set(on(plugin.Provision, lxc, "how", "template", "source", template), "lock"),
		"start":                   set(on(plugin.Provision, lxc, "how", "template", "source", template), "start"),
		"force":                   set(on(plugin.Provision, lxc, "how", "template", "source", template), "force"),
		"storage":                 on(plugin.Provision, lxc, "how", "template", "source", template, "storage", "a/b"),
		"pool":                    on(plugin.Provision, lxc, "how", "template", "source", template, "pool", "a b"),
		"reserve":                 on(plugin.Provision, lxc, "how", "template", "source", template, plugin.ParamReserve, "-1"),
		"grow a net":              on(plugin.GrowDisk, lxc, "disk", "net0", "size", "1073741824"),
		"grow by":                 on(plugin.GrowDisk, lxc, "disk", "rootfs", "size", "+1073741824"),
		"grow to odd bytes":       on(plugin.GrowDisk, lxc, "disk", "rootfs", "size", "1073741825"),
		"grow without digest":     bare(on(plugin.GrowDisk, lxc, "disk", "rootfs", "size", "1073741824")),
		"snapshot current":        on(plugin.TakeSnapshot, lxc, "name", "current"),
		"snapshot that escapes":   on(plugin.DeleteSnapshot, lxc, "name", "../x"),
		"rollback to nothing":     on(plugin.Rollback, lxc),
		"backup to nowhere":       on(plugin.Backup, lxc),
		"backup mode":             on(plugin.Backup, lxc, "storage", "local", "mode", "fast"),
		"backup notes":            on(plugin.Backup, lxc, "storage", "local", "notes", "{{cluster}}"),
		"backup that prunes":      on(plugin.Backup, lxc, "storage", "local", "prune-backups", "keep-last=1"),
		"restore of a machine":    on(plugin.Restore, lxc, "source", vmBackup),
		"restore without digest":  bare(on(plugin.Restore, lxc, "source", ctBackup)),
		"destroy without digest":  bare(on(plugin.Destroy, lxc)),
		"destroy purge":           on(plugin.Destroy, lxc, "purge", "yes"),
		"destroy with force":      on(plugin.Destroy, lxc, "force", "1"),
		"another's backup":        on(plugin.DeleteBackup, lxc, "volume", "local:backup/vzdump-lxc-102-2026_11_23-09_02_37.tar.zst"),
		"backup of another kind":  on(plugin.DeleteBackup, lxc, "volume", "local:backup/vzdump-qemu-101-2026_11_23-09_02_37.vma.zst"),
		"an image as backup":      on(plugin.DeleteBackup, lxc, "volume", "local:101/vm-101-disk-0.raw"),
		"a backup as volume":      on(plugin.DeleteVolume, lxc, "volume", ctBackup),
		"a volume that escapes":   on(plugin.DeleteVolume, lxc, "volume", "local:101/../102/vm-102-disk-0.raw"),
		"a path":                  on(plugin.DeleteVolume, lxc, "volume", "/dev/sda"),
		"a VMID":                  on(plugin.Destroy, guest.ID{Kind: guest.LXC, VMID: 7}),
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for name, a := range bad {
			if got := apply(t.Context(), r.Driver, a, ""); !isInvalid(got.err) {
				t.Errorf("%s: %+v", name, got)
			}
			if _, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a}); !isInvalid(err) {
				t.Errorf("%s: probe: %v", name, err)
			}
		}
		if ch := r.changes(0); len(ch) > 0 {
			t.Errorf("changes: %q", ch)
		}
	})
}

func isInvalid(err error) bool { return errors.Is(err, plugin.ErrInvalid) }

func TestBackupOwner(t *testing.T) {
	for volid, want := range map[string]string{
		"local:backup/vzdump-lxc-101-2026_11_23-09_02_37.tar.zst": "lxc/101", "nas:backup/vzdump-qemu-201-2026_11_23-09_02_37.vma": "qemu/201",
		"pbs:backup/ct/101/2026-11-23T09:02:37Z": "lxc/101", "pbs:backup/vm/201/2026-11-23T09:02:37Z": "qemu/201",
		"pbs:backup/host/pve1/2026-11-23T09:02:37Z": "", "local:backup/x.tar": "", "local:101/vm-101-disk-0.raw": "", "": "",
		"local:backup/vzdump-lxc-7-2026_11_23-09_02_37.tar": "", "local:backup/a/vzdump-lxc-101-x": "",
	} {
		id, ok := backupOwner(volid)
		if ok != (want != "") || ok && id.String() != want {
			t.Errorf("%s: %v, %v", volid, id, ok)
		}
	}
}

// pveUPID names a task whose log PVE does not keep.
func pveUPID(t *testing.T, typ string, v guest.VMID) string {
	t.Helper()
	return pve.UPID{Node: "pve1", PID: 7, PStart: 8, Start: uint32(time.Now().Unix()), Type: typ, ID: v.String(), User: "agent@pve!full"}.String()
}
