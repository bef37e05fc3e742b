// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// cloneRoutes copy guests and make templates of them.
func cloneRoutes() []route {
	var out []route
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		one := "/nodes/{node}/" + string(kind) + "/{vmid}"
		params := []schema.Param{
			{Name: "newid", Type: schema.Integer, Required: true, Min: schema.F(100), Max: schema.F(999999999)},
			{Name: pick(kind, "hostname", "name")},
			{Name: "description"},
			{Name: "pool"},
			{Name: "snapname", MaxLen: 40},
			{Name: "storage"},
			{Name: "full", Type: schema.Boolean},
			{Name: "target"},
			{Name: "bwlimit", Type: schema.Number, Min: schema.F(0)},
		}
		if kind == guest.QEMU {
			params = append(params, schema.Param{Name: "format", Enum: []string{"raw", "qcow2", "vmdk"}})
		}
		template := []schema.Param{}
		if kind == guest.QEMU {
			template = append(template, schema.Param{Name: "disk"})
		}
		out = append(out,
			route{method: "POST", path: one + "/clone", protected: true, perm: guestPerm("VM.Clone"), params: params, run: cloneGuest},
			route{method: "POST", path: one + "/template", protected: true, perm: guestPerm("VM.Allocate"), params: template, run: makeTemplate},
		)
	}
	return out
}

// cloneJob is one guest to be copied.
type cloneJob struct {
	kind        guest.Kind
	from, to    int
	name        string
	description *string
	pool        string
	storage     string
	format      string
	full        bool
	src         *conf.Guest
}

// cloneGuest is POST .../clone.
func cloneGuest(c *call) (any, error) {
	j := &cloneJob{
		kind: c.kind(), from: c.vmid(), to: c.in.Int("newid", 0), pool: c.in.Get("pool"), storage: c.in.Get("storage"),
		format: c.in.Get("format"), name: c.in.Get(pick(c.kind(), "hostname", "name")),
	}
	if c.in.Has("description") {
		d := c.in.Get("description")
		j.description = &d
	}
	if err := j.admit(c); err != nil {
		return nil, err
	}
	return c.guestTask(taskPrefix(j.kind)+"clone", j.work)
}

func (j *cloneJob) admit(c *call) error {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := j.mayClone(c); err != nil {
		return err
	}
	g, err := s.findLocked(j.kind, j.from)
	if err != nil {
		return err
	}
	j.full = c.in.Bool("full") || !c.in.Has("full") && !g.conf.Template()
	if err := j.vacant(s); err != nil {
		return err
	}
	if err := g.checkLock(); err != nil {
		return err
	}
	j.src = g.conf
	if name := c.in.Get("snapname"); name != "" {
		sec, ok := g.conf.Snapshots[name]
		if !ok {
			return die("snapshot '%s' does not exist", name)
		}
		j.src = g.conf.Edit(func(d *conf.Guest) { d.Current = snapshotOf(sec) })
	} else if j.kind == guest.LXC && g.up && j.full {
		return die("Cannot do full clones on a running container without snapshots")
	}
	if err := j.linkable(s); err != nil {
		return err
	}
	if err := j.mayCopy(c); err != nil {
		return err
	}
	if j.kind == guest.LXC {
		s.placeholder(j.kind, j.to) // a container's is there before the task
		s.confEdit(g, func(d *conf.Guest) { d.Current.Set("lock", "disk") })
	}
	return nil
}

func (j *cloneJob) mayClone(c *call) error {
	if j.pool != "" && c.sim.acl.Pools[j.pool] == nil {
		return denied("pool '%s' does not exist", j.pool)
	}
	inPool := j.pool != "" && c.mayLocked("/pool/"+j.pool, "VM.Allocate")
	if c.authid != acl.Root && !inPool && !c.mayLocked("/vms/"+itoa(j.to), "VM.Allocate") {
		return denied("/vms/%d, VM.Allocate", j.to)
	}
	if j.storage != "" && !c.mayLocked("/storage/"+j.storage, "Datastore.AllocateSpace") {
		return denied("/storage/%s, Datastore.AllocateSpace", j.storage)
	}
	return nil
}

// vacant refuses a VMID in use: for a virtual machine PVE asks only whether
// there is another one; a container under the VMID is noticed in the task.
func (j *cloneJob) vacant(s *Sim) error {
	g := s.guests[j.to]
	switch {
	case g == nil:
		return nil
	case j.kind == guest.LXC:
		return die("%s %d already exists on node '%s'", pick(g.kind, "CT", "VM"), j.to, s.opt.Node)
	case g.kind == guest.QEMU:
		return die("unable to create VM %d: config file already exists", j.to)
	}
	return nil
}

// linkable refuses a linked clone of what is no base volume of a storage that
// has such clones.
func (j *cloneJob) linkable(s *Sim) error {
	if j.full {
		return nil
	}
	for _, k := range disksOf(j.src.Current, false) {
		v := j.src.Current.Values[k]
		volid, _ := diskOf(v)
		if j.kind == guest.QEMU && isCDROM(v) || s.canLink(volid, j.kind) {
			continue
		}
		if j.kind == guest.LXC {
			return die("Linked clone feature for '%s' is not available", volid)
		}
		return die("Linked clone feature is not supported for '%s' (%s)", volid, k)
	}
	return nil
}

// canLink reports whether a volume can have linked clones. Needs mu.
func (s *Sim) canLink(volid string, kind guest.Kind) bool {
	name := imageName(volid)
	return strings.Contains("/"+name[strings.LastIndexByte(name, '/')+1:], "/base") && s.volumeFeature(volid, kind)
}

// placeholder enters a guest that is being made. Needs mu.
func (s *Sim) placeholder(kind guest.Kind, vmid int) *guestState {
	lock := map[string]string{"lock": pick(kind, "create", "clone")}
	g := s.newGuestLocked(kind, vmid, conf.New(kind, guest.VMID(vmid), lock))
	s.touchLocked(g)
	return g
}

// work is the task: copies of all disks, then the new config.
func (j *cloneJob) work(t *task) error {
	s := t.sim
	if j.kind == guest.QEMU {
		s.mu.Lock()
		taken := s.guests[j.to] != nil
		if !taken {
			s.placeholder(j.kind, j.to)
		}
		s.mu.Unlock()
		if taken {
			return die("close (rename) atomic file '/etc/pve/nodes/%s/qemu-server/%d.conf' failed: File exists", s.opt.Node, j.to)
		}
	}
	if j.kind == guest.LXC && s.major >= 9 {
		t.say(fmt.Sprintf("creating a clone of container %d with ID %d\n", j.from, j.to))
	}
	cfg, err := j.copy(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	j.unlockSource(s)
	g := s.guests[j.to]
	if err != nil {
		if g != nil {
			s.removeLocked(g)
		}
		return die("clone failed: %s", err.Error())
	}
	s.setConfLocked(g, cfg)
	if p := s.acl.Pools[j.pool]; p != nil {
		p.VMs[j.to] = true
	}
	s.noteLocked(Mutation{Kind: string(j.kind), VMID: j.to, What: "clone", User: t.user, UPID: t.upid, Detail: itoa(j.from)})
	return nil
}

// unlockSource clears the lock that a container has while it is copied. Needs
// mu.
func (j *cloneJob) unlockSource(s *Sim) {
	if g := s.guests[j.from]; g != nil && j.kind == guest.LXC && g.conf.Lock() == "disk" {
		s.confEdit(g, func(d *conf.Guest) { delete(d.Current.Values, "lock") })
	}
}

func (j *cloneJob) copy(t *task) (*conf.Guest, error) {
	s := t.sim
	disks := map[string]string{}
	for _, k := range disksOf(j.src.Current, false) {
		v, err := j.copyDisk(t, k, j.src.Current.Values[k])
		if err != nil {
			return nil, err
		}
		disks[k] = v
	}
	base := conf.New(j.kind, guest.VMID(j.to), nil)
	return base.Edit(func(c *conf.Guest) {
		c.Current = j.newConfig(disks)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.freshIdentity(j.kind, c)
	}), nil
}

// newConfig is the source's config without what belongs to it alone.
func (j *cloneJob) newConfig(disks map[string]string) conf.Section {
	out := conf.Section{Values: map[string]string{}, Raw: j.src.Current.Raw}
	for k, v := range j.src.Current.Values {
		switch {
		case k == "lock", k == "template", k == "parent", k == "snaptime", strings.HasPrefix(k, "unused"):
		case disks[k] != "":
			out.Values[k] = disks[k]
		default:
			out.Values[k] = v
		}
	}
	key := pick(j.kind, "hostname", "name")
	switch {
	case j.name != "":
		out.Values[key] = j.name
	case j.kind == guest.QEMU:
		out.Values[key] = "Copy-of-VM-" + either2(out.Values[key], itoa(j.from))
	}
	if j.description != nil {
		out.Values["description"] = *j.description
	}
	return out
}

// copyDisk copies one disk and returns its new value.
func (j *cloneJob) copyDisk(t *task, key, value string) (string, error) {
	volid, size := diskOf(value)
	switch {
	case !strings.Contains(volid, ":"):
		return value, nil
	case j.kind == guest.LXC:
		return t.copyMount(j, key, value)
	case isCDROM(value) && !isCloudInit(volid):
		return value, nil
	case isCloudInit(volid):
		return t.copyCloudInit(j, key, value)
	case !j.full:
		return t.linkDrive(j, key, value)
	}
	fresh, err := t.copyDrive(copyDrive{key: key, volid: volid, size: size, owner: j.to, store: j.storage, format: j.format})
	if err != nil {
		return "", err
	}
	return withVolume(value, fresh), nil
}

func (t *task) copyCloudInit(j *cloneJob, key, value string) (string, error) {
	s := t.sim
	volid, _ := diskOf(value)
	fresh := fmt.Sprintf("%s:%d/vm-%d-cloudinit.%s", either2(j.storage, storageOf(volid)), j.to, j.to, formatOf(volid))
	s.mu.Lock()
	s.putVolume(fresh, cloudInitBytes, formatOf(volid), j.to)
	s.mu.Unlock()
	t.say(fmt.Sprintf("create full clone of drive %s (%s)\n", key, volid))
	t.say(imageLog(s.volumePath(fresh), formatOf(fresh), cloudInitBytes, ""))
	if strings.Contains(value, "size=") {
		return withVolume(value, fresh), nil
	}
	return withVolume(value, fresh) + ",size=" + sizeText(cloudInitBytes), nil
}

const cloudInitBytes = 4 << 20

// copyDrive is one image to be copied in full.
type copyDrive struct {
	key, volid    string
	size          int64
	owner         int
	store, format string // default: the source's
}

func (t *task) copyDrive(d copyDrive) (string, error) {
	s := t.sim
	t.say(fmt.Sprintf("create full clone of drive %s (%s)\n", d.key, d.volid))
	s.mu.Lock()
	v := s.volume(d.volid)
	owner := (*guestState)(nil)
	if v != nil {
		owner = s.guests[v.VMID]
	}
	s.mu.Unlock()
	path := s.volumePath(d.volid)
	switch {
	case v == nil:
		return "", die("volume '%s' does not exist", d.volid)
	case owner != nil && owner.up && v.Format != "raw":
		t.say(fmt.Sprintf("command '/usr/bin/qemu-img info '--output=json' %s -f %s' failed: exit code 1\n", path, v.Format))
		return "", die("qemu-img: Could not open '%[1]s': Failed to get shared \"write\" lock\nIs another process using the image [%[1]s]?", path)
	}
	s.mu.Lock()
	store, format := either2(d.store, storageOf(d.volid)), either2(d.format, v.Format)
	if s.storage(store) == nil {
		s.mu.Unlock()
		return "", die("storage '%s' does not exist", store)
	}
	fresh := s.freeImage(store, d.owner, format)
	s.putVolume(fresh, v.Size, format, d.owner)
	size := v.Size
	s.mu.Unlock()
	t.say(imageLog(s.volumePath(fresh), format, size, ""))
	t.say(fmt.Sprintf("transferred 0.0 B of %[1]s (0.00%%)\ntransferred %[1]s of %[1]s (100.00%%)\n", byteText(size)))
	if !t.wait(s.scaled(30 * time.Millisecond)) {
		return "", errInterrupted
	}
	return fresh, nil
}

// byteText is a number of bytes as PVE's progress lines print it.
func byteText(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB", "TiB"} {
		if f < 1024 || unit == "TiB" {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		f /= 1024
	}
	return ""
}

// linkDrive makes an image on top of a base image.
func (t *task) linkDrive(j *cloneJob, key, value string) (string, error) {
	s := t.sim
	volid, size := diskOf(value)
	base := imageName(volid)
	s.mu.Lock()
	plain := s.freeImage(storageOf(volid), j.to, formatOf(volid))
	fresh := volid + "/" + imageName(plain)
	s.putVolume(fresh, size, formatOf(volid), j.to)
	if v := s.volume(fresh); v != nil {
		v.parent = "../" + base
	}
	s.mu.Unlock()
	file := imageName(plain)[strings.LastIndexByte(imageName(plain), '/')+1:]
	t.say(fmt.Sprintf("create linked clone of drive %s (%s)\n", key, volid))
	t.say(fmt.Sprintf("clone %s: images, %s, %d to %s (base=../%s)\n", base, file, j.to, file, base))
	t.say(imageLog(s.volumePath(plain), formatOf(volid), size, "../"+base))
	return withVolume(value, fresh), nil
}

// copyMount copies one volume of a container file by file.
func (t *task) copyMount(j *cloneJob, key, value string) (string, error) {
	volid, size := diskOf(value)
	fresh, err := t.copyFiles(key, volid, either2(j.storage, storageOf(volid)), j.to, size)
	if err != nil {
		return "", err
	}
	return withVolume(value, fresh), nil
}

func (t *task) copyFiles(key, volid, store string, owner int, size int64) (string, error) {
	s := t.sim
	t.say(fmt.Sprintf("create full clone of mountpoint %s (%s)\n", key, volid))
	s.mu.Lock()
	if s.storage(store) == nil {
		s.mu.Unlock()
		return "", die("storage '%s' does not exist", store)
	}
	fresh := s.freeImage(store, owner, "raw")
	s.putVolume(fresh, size, "raw", owner)
	s.mu.Unlock()
	t.say(s.formatLog(fresh, size))
	if !t.wait(s.scaled(700 * time.Millisecond)) {
		return "", errInterrupted
	}
	t.say(copyReport(size / 32))
	return fresh, nil
}

// copyReport is what rsync prints at the end.
func copyReport(bytes int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nNumber of files: 2 (dir: 2)\nNumber of created files: 0\nNumber of deleted files: 0\n"+
		"Number of regular files transferred: 0\nTotal file size: %[1]d bytes\nTotal transferred file size: %[1]d bytes\n"+
		"Literal data: %[1]d bytes\nMatched data: 0 bytes\nFile list size: 0\nFile list generation time: 0.001 seconds\n"+
		"File list transfer time: 0.000 seconds\nTotal bytes sent: %[2]d\nTotal bytes received: 23\n\n"+
		"sent %[2]d bytes  received 23 bytes  232.00 bytes/sec\ntotal size is %[1]d  speedup is 1.00\n", bytes, bytes+93)
	return b.String()
}

// hasFeature reports whether every volume of a guest can be copied (they all
// can), snapshotted or be the base of a linked clone. Needs mu.
func (s *Sim) hasFeature(g *guestState, feature string) bool {
	switch feature {
	case "copy":
		return true
	case "snapshot":
		return s.canSnapshot(g)
	}
	for _, k := range disksOf(g.conf.Current, false) {
		volid, _ := diskOf(g.value(k))
		if !s.canLink(volid, g.kind) && !(g.kind == guest.QEMU && isCDROM(g.value(k))) {
			return false
		}
	}
	return true
}
