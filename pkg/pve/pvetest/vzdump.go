// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// globalLock is vzdump's lock: one backup job at a time on a node.
const globalLock = "/var/run/vzdump.lock"

// jobSetup is how long a job looks around before its first guest.
const jobSetup = 250 * time.Millisecond

func backupRoutes() []route {
	text := func(names ...string) []schema.Param {
		var out []schema.Param
		for _, n := range names {
			out = append(out, schema.Param{Name: n})
		}
		return out
	}
	params := append(
		text("vmid", "storage", "notes-template", "prune-backups", "pool", "exclude", "exclude-path", "dumpdir", "tmpdir", "script",
			"mailto", "mailnotification", "notification-mode", "fleecing", "performance", "job-id"),
		schema.Param{Name: "mode", Enum: []string{"snapshot", "suspend", "stop"}},
		schema.Param{Name: "compress", Enum: []string{"0", "1", "gzip", "lzo", "zstd"}},
		schema.Param{Name: "all", Type: schema.Boolean}, schema.Param{Name: "protected", Type: schema.Boolean},
		schema.Param{Name: "remove", Type: schema.Boolean}, schema.Param{Name: "quiet", Type: schema.Boolean},
		schema.Param{Name: "stdexcludes", Type: schema.Boolean}, schema.Param{Name: "stop", Type: schema.Boolean},
		schema.Param{Name: "bwlimit", Type: schema.Integer, Min: schema.F(0)}, schema.Param{Name: "ionice", Type: schema.Integer, Min: schema.F(0), Max: schema.F(8)},
		schema.Param{Name: "lockwait", Type: schema.Integer, Min: schema.F(0)}, schema.Param{Name: "stopwait", Type: schema.Integer, Min: schema.F(0)},
		schema.Param{Name: "maxfiles", Type: schema.Integer, Min: schema.F(1)}, schema.Param{Name: "zstd", Type: schema.Integer}, schema.Param{Name: "pigz", Type: schema.Integer},
	)
	return []route{{method: "POST", path: "/nodes/{node}/vzdump", protected: true, params: params, run: startBackup}}
}

// startBackup is POST nodes/{node}/vzdump.
func startBackup(c *call) (any, error) {
	s := c.sim
	for _, k := range []string{"dumpdir", "tmpdir", "script", "job-id"} {
		if c.in.Has(k) && c.authid != "root@pam" {
			return nil, badParam(k, "Only root may set this option.")
		}
	}
	if !c.in.Has("vmid") && !c.in.Bool("all") && !c.in.Has("pool") {
		return nil, badParam("vmid", "property is missing")
	}
	store := either2(c.in.Get("storage"), "local")
	if s.hasStorage(store) {
		if err := c.need("/storage/"+store, "Datastore.AllocateSpace"); err != nil {
			return nil, err
		}
	}
	if c.in.Has("prune-backups") {
		if err := c.need("/storage/"+store, "Datastore.Allocate"); err != nil {
			return nil, err
		}
	}
	if c.in.Has("bwlimit") || c.in.Has("ionice") {
		if err := c.need("/", "Sys.Modify"); err != nil {
			return nil, err
		}
	}
	ids := splitList(c.in.Get("vmid"))
	for _, id := range ids {
		if err := c.need("/vms/"+id, "VM.Backup"); err != nil {
			return nil, err
		}
	}
	id := ""
	if len(ids) == 1 {
		id = ids[0]
	}
	b := &backup{call: c, storage: store, ids: ids, mode: either2(c.in.Get("mode"), "snapshot")}
	return s.fork("vzdump", id, c.authid, b.work)
}

func (s *Sim) hasStorage(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.storage(id) != nil
}

// backup is one vzdump job.
type backup struct {
	call    *call
	storage string
	ids     []string
	mode    string
}

func (b *backup) work(t *task) error {
	s := t.sim
	if !s.hasStorage(b.storage) {
		return die("could not activate storage '%[1]s': storage '%[1]s' does not exist\ncould not get storage information for '%[1]s': storage '%[1]s' does not exist", b.storage)
	}
	unlock, err := b.globalLock(t)
	if err != nil {
		return err
	}
	defer unlock()
	if b.call.in.Bool("all") {
		b.ids = s.vmids()
	}
	t.say("INFO: starting new backup job: vzdump " + b.commandLine() + "\n")
	b.sayFileSystem(t)
	failed := false
	if !t.wait(s.scaled(jobSetup)) {
		return errInterrupted
	}
	for _, id := range b.ids {
		if err := b.one(t, id); err != nil {
			failed = true
			t.say(fmt.Sprintf("ERROR: Backup of VM %s failed - %s\n", id, strings.TrimSpace(err.Error())))
			t.say("INFO: Failed at " + b.stamp(t) + "\n")
			if cancelled(t.ctx) {
				break
			}
		}
	}
	if failed {
		t.say("INFO: Backup job finished with errors\n")
		return errors.New("job errors")
	}
	t.say("INFO: Backup job finished successfully\n")
	return nil
}

func (s *Sim) vmids() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, g := range s.sortedGuests() {
		out = append(out, itoa(g.vmid))
	}
	return out
}

func (b *backup) stamp(t *task) string { return t.sim.now().UTC().Format("2006-01-02 15:04:05") }

// commandLine prints the job as a command; PVE's order of options is random.
func (b *backup) commandLine() string {
	parts := slices.Clone(b.ids)
	for _, k := range slices.Sorted(maps.Keys(b.call.in)) {
		v := b.call.in.Get(k)
		if k == "vmid" {
			continue
		}
		if strings.ContainsAny(v, " {}=*?'\"") {
			v = "'" + v + "'"
		}
		parts = append(parts, "--"+k, v)
	}
	return strings.Join(parts, " ")
}

// one backs up one guest under lock: backup.
func (b *backup) one(t *task, id string) error {
	s := t.sim
	vmid, err := strconv.Atoi(id)
	s.mu.Lock()
	g := s.guests[vmid]
	s.mu.Unlock()
	if err != nil || g == nil {
		return fmt.Errorf("unable to find VM '%s'", id)
	}
	if err := b.room(s, g); err != nil {
		return err
	}
	began := s.now()
	t.say(fmt.Sprintf("INFO: Starting Backup of VM %s (%s)\nINFO: Backup started at %s\n", id, g.kind, b.stamp(t)))
	if err := b.guest(t, g, began); err != nil {
		return err
	}
	d := s.now().Sub(began).Truncate(time.Second)
	t.say(fmt.Sprintf("INFO: Finished Backup of VM %s (%02d:%02d:%02d)\nINFO: Backup finished at %s\n",
		id, int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60, b.stamp(t)))
	return nil
}

func (b *backup) guest(t *task, g *guestState, began time.Time) error {
	s := t.sim
	s.mu.Lock()
	up := g.up
	err := g.checkLock()
	if err == nil {
		s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { c.Current.Set("lock", "backup") }))
	}
	s.mu.Unlock()
	t.say("INFO: status = " + runStateName(up) + "\n")
	if err != nil {
		return err
	}
	defer func() {
		// An interrupted job is torn away before it can clear the lock.
		if !cancelled(t.ctx) {
			b.unlockGuest(s, g)
		}
	}()
	if up && g.kind == guest.QEMU && s.opt.Lacks.QEMUPatches {
		return die("VM %d qmp command 'query-backup' failed - The command query-backup has not been found\n", g.vmid)
	}
	mode := b.chooseMode(t, g, up)
	t.say("INFO: backup mode: " + mode + "\n")
	if bw := b.bandwidth(s); bw > 0 {
		t.say(fmt.Sprintf("INFO: bandwidth limit: %d KiB/s\n", bw))
	}
	t.say("INFO: ionice priority: 7\n")
	b.sayVolumes(t, g)
	switch {
	case mode == "stop" && up:
		return b.stopped(t, g, began)
	case mode == "suspend" && up:
		b.saySync(t, g, began)
	}
	return b.archive(t, g, began)
}

func runStateName(up bool) string {
	if up {
		return "running"
	}
	return "stopped"
}

// chooseMode: directory storage has no container snapshots, so a container
// in snapshot mode is suspended; what does not run is "stopped" anyway.
func (b *backup) chooseMode(t *task, g *guestState, up bool) string {
	if !up {
		return "stop"
	}
	if b.mode == "snapshot" && g.kind == guest.LXC {
		b.sayVolumes(t, g)
		t.say("INFO: mode failure - some volumes do not support snapshots\nINFO: trying 'suspend' mode instead\n")
		return "suspend"
	}
	return b.mode
}

func (b *backup) sayVolumes(t *task, g *guestState) {
	if g.kind == guest.QEMU {
		if n := g.value("name"); n != "" {
			t.say("INFO: VM Name: " + n + "\n")
		}
		return
	}
	t.say("INFO: CT Name: " + g.name() + "\nINFO: including mount point rootfs ('/') in backup\n")
	for _, k := range slices.Sorted(maps.Keys(g.conf.Current.Values)) {
		if !isMP(k) {
			continue
		}
		v := g.value(k)
		at := ""
		for part := range strings.SplitSeq(v, ",") {
			if p, ok := strings.CutPrefix(part, "mp="); ok {
				at = p
			}
		}
		if strings.Contains(v, "backup=1") {
			t.say(fmt.Sprintf("INFO: including mount point %s ('%s') in backup\n", k, at))
		} else {
			t.say(fmt.Sprintf("INFO: excluding volume mount point %s ('%s') from backup (disabled)\n", k, at))
		}
	}
}

func (b *backup) saySync(t *task, g *guestState, began time.Time) {
	tmp := b.dumpName(t.sim, g, began, "tmp")
	t.say(fmt.Sprintf("INFO: starting first sync /proc/%d/root/ to %s\n", g.pid, tmp))
	t.say("INFO: first sync finished - transferred 1.98M bytes in 0s\nINFO: suspending guest\n")
	t.say(fmt.Sprintf("INFO: starting final sync /proc/%d/root/ to %s\n", g.pid, tmp))
	t.say("INFO: final sync finished - transferred 0 bytes in 0s\nINFO: resuming guest\nINFO: guest is online again after <1 seconds\n")
}

// stopped stops the guest, backs it up and starts it again, with its hooks.
func (b *backup) stopped(t *task, g *guestState, began time.Time) error {
	s := t.sim
	t.say("INFO: stopping virtual guest\n")
	// A container is stopped and started within the job and without its
	// lock file; a virtual machine by commands that take it.
	if g.kind == guest.QEMU {
		unlock, err := s.lockGuest(t.ctx, g.kind, g.vmid, nil)
		if err != nil {
			return err
		}
		defer unlock()
	}
	var err error
	how := stopHow{what: "backup-stop", timeout: 10 * time.Minute}
	quiet := t.silent()
	if g.kind == guest.QEMU {
		err = quiet.vmStop(g, how)
	} else {
		err = quiet.ctStop(g, how)
	}
	if err != nil {
		return err
	}
	if err := b.archive(t, g, began); err != nil {
		return err
	}
	t.say("INFO: restarting vm\n")
	b.unlockGuest(s, g)
	if g.kind == guest.QEMU {
		err = quiet.vmStart(g, "backup-start")
	} else {
		err = quiet.ctStart(g, "backup-start")
	}
	t.say(fmt.Sprintf("INFO: guest is online again after %d seconds\n", int(s.now().Sub(began).Seconds())))
	return err
}

// silent is the same task for work whose output does not reach the log.
func (t *task) silent() *task {
	return &task{
		sim: t.sim, upid: t.upid, node: t.node, typ: t.typ, id: t.id, user: t.user, ctx: t.ctx, interrupt: t.interrupt, done: t.done, dead: t.dead,
	}
}

func (b *backup) unlockGuest(s *Sim, g *guestState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.conf.Lock() == "backup" && s.guests[g.vmid] == g {
		s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { delete(c.Current.Values, "lock") }))
	}
}

// dumpName is the path of an archive without or with an extension.
func (b *backup) dumpName(s *Sim, g *guestState, began time.Time, ext string) string {
	base := path.Dir(s.volumePath(b.storage + ":backup/x"))
	return fmt.Sprintf("%s/vzdump-%s-%d-%s.%s", base, g.kind, g.vmid, began.UTC().Format("2006_01_02-15_04_05"), ext)
}

// archive writes the backup volume with the config as it was before the
// lock.
func (b *backup) archive(t *task, g *guestState, began time.Time) error {
	s := t.sim
	ext := "tar"
	if g.kind == guest.QEMU {
		ext = "vma"
	}
	switch b.call.in.Get("compress") {
	case "zstd":
		ext += ".zst"
	case "gzip", "1":
		ext += ".gz"
	case "lzo":
		ext += ".lzo"
	}
	file := b.dumpName(s, g, began, ext)
	t.say("INFO: creating vzdump archive '" + file + "'\n")
	if err := b.writable(t, g, strings.TrimSuffix(file, "."+ext)); err != nil {
		return err
	}
	s.mu.Lock()
	content := s.usedBy(g)
	s.mu.Unlock()
	if !t.wait(s.scaled(300*time.Millisecond) + b.transfer(s, content)) {
		return errors.New("interrupted by signal")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.say(fmt.Sprintf("INFO: Total bytes written: %d (%s, 120MiB/s)\nINFO: archive file size: %dMB\n", content, tarSize(content), content>>20))
	saved := g.conf.Edit(func(c *conf.Guest) {
		delete(c.Current.Values, "lock")
		delete(c.Current.Values, "parent")
		c.Snapshots = nil
	})
	volid := b.storage + ":backup/" + path.Base(file)
	v := &volumeState{
		Volume: Volume{VolID: volid, Content: "backup", Format: ext, Size: content / 2, Unpacked: content, CTime: began.Unix(), VMID: g.vmid},
		backup: saved.Text(),
	}
	b.annotate(t, g, v)
	s.storage(b.storage).volumes[volid] = v
	b.prune(t, g)
	s.noteLocked(Mutation{Kind: string(g.kind), VMID: g.vmid, What: "backup", User: t.user, UPID: t.upid, Detail: volid})
	return nil
}

// usedBy is how much data a guest's volumes hold, in whole tar records.
// Needs mu.
func (s *Sim) usedBy(g *guestState) int64 {
	var n int64
	for _, st := range s.storages {
		for _, v := range st.volumes {
			if v.VMID == g.vmid && v.Content != "backup" {
				n += v.used
			}
		}
	}
	return ceilDiv(n, 10240) * 10240
}

// annotate adds the job's notes and protection. Needs mu.
func (b *backup) annotate(t *task, g *guestState, v *volumeState) {
	if tmpl := b.call.in.Get("notes-template"); tmpl != "" {
		r := strings.NewReplacer("{{guestname}}", g.name(), "{{vmid}}", itoa(g.vmid), "{{node}}", t.node, "{{cluster}}", "", `\n`, "\n", `\\`, `\`)
		v.Notes = r.Replace(tmpl)
		t.say("INFO: adding notes to backup\n")
	}
	if b.call.in.Bool("protected") {
		v.protected = true
		t.say("INFO: marking backup as protected\n")
	}
}
