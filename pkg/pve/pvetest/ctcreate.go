// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/conf"
)

// ctCreation is a container to be created or restored.
type ctCreation struct {
	vmid     int
	user     string
	archive  string // template or backup
	storage  string // for volumes without one
	pool     string
	restore  bool
	force    bool
	unique   bool
	start    bool
	params   map[string]string // config keys
	replaces bool              // restores over a guest that exists
}

// notConfig are the parameters of a create call that are no config keys.
var notConfig = []string{
	"ostemplate", "storage", "pool", "restore", "force", "unique", "start", "password", "ssh-public-keys",
	"bwlimit", "ignore-unpack-errors", "ha-managed", "vmid", "node",
}

func newCTCreation(c *call, all map[string]string) *ctCreation {
	n := &ctCreation{
		vmid: c.in.Int("vmid", 0), user: c.authid, archive: all["ostemplate"], storage: either2(all["storage"], "local"),
		pool: all["pool"], restore: all["restore"] == "1", force: all["force"] == "1", unique: all["unique"] == "1",
		start: all["start"] == "1", params: maps.Clone(all),
	}
	for _, k := range notConfig {
		delete(n.params, k)
	}
	return n
}

// createCT is POST .../lxc.
func createCT(c *call) (any, error) {
	all, err := c.configParams()
	if err != nil {
		return nil, err
	}
	delete(all, "vmid")
	s := c.sim
	if err := conf.CheckParams(s.major, guest.LXC, conf.Create, all); err != nil {
		return nil, fromConf(err)
	}
	n := newCTCreation(c, all)
	if err := n.admit(c); err != nil {
		return nil, err
	}
	if err := n.reserve(s); err != nil {
		return nil, err
	}
	typ := "vzcreate"
	if n.restore {
		typ = "vzrestore"
	}
	return s.fork(typ, itoa(n.vmid), n.user, n.work)
}

// admit makes PVE's checks in PVE's order.
func (n *ctCreation) admit(c *call) error {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := n.vacant(s); err != nil {
		return err
	}
	if n.pool != "" && s.acl.Pools[n.pool] == nil {
		return denied("pool '%s' does not exist", n.pool)
	}
	if !n.allowed(c) {
		return &apiError{status: 403, reason: "Permission check failed"}
	}
	if err := n.keysAllowed(s); err != nil {
		return err
	}
	if c.in.Has("ha-managed") && !c.mayLocked("/", "Sys.Console") {
		return denied("/, Sys.Console")
	}
	return n.storagesAllowed(c)
}

// vacant refuses a VMID that is in use, unless a container is to be restored
// over itself.
func (n *ctCreation) vacant(s *Sim) error {
	g := s.guests[n.vmid]
	if g == nil || g.kind != guest.LXC || !n.restore || !n.force {
		return s.takenLocked(n.vmid)
	}
	if g.up {
		return die("can't overwrite running container")
	}
	if g.value("protection") == "1" {
		return die("unable to restore CT %d - protection mode enabled", n.vmid)
	}
	n.replaces = true
	return nil
}

func (n *ctCreation) allowed(c *call) bool {
	if c.authid == acl.Root || c.mayLocked("/vms/"+itoa(n.vmid), "VM.Allocate") {
		return true
	}
	if n.pool != "" && c.mayLocked("/pool/"+n.pool, "VM.Allocate") {
		return true
	}
	return n.replaces && c.mayLocked("/vms/"+itoa(n.vmid), "VM.Backup")
}

// keysAllowed asks package conf which keys the caller may not set.
func (n *ctCreation) keysAllowed(s *Sim) error {
	keys := map[string]string{}
	for k, v := range n.params {
		if k != "unprivileged" && k != "rootfs" {
			keys[k] = v
		}
	}
	if s.major >= 9 && !n.restore && n.params["unprivileged"] == "0" && n.user != acl.Root && !s.acl.Perms(n.user, "/").Has("Sys.Modify") {
		return denied("/, Sys.Modify")
	}
	if len(keys) == 0 {
		return nil
	}
	req := s.confRequest(n.user, keys, false)
	req.Caller.Allowed = n.poolAllowed(s, req.Caller.Allowed)
	res := n.base(s).Put(req)
	if res.Err != nil && (res.Err.Status == 403 || res.Err.Status == 400) {
		return fromConf(res.Err)
	}
	return nil
}

// poolAllowed lends the pool's privileges to the guest that is to be in it.
func (n *ctCreation) poolAllowed(s *Sim, held func(string, string) bool) func(string, string) bool {
	return func(p, priv string) bool {
		if held(p, priv) {
			return true
		}
		return n.pool != "" && p == "/vms/"+itoa(n.vmid) && s.acl.Perms(n.user, "/pool/"+n.pool).Has(priv)
	}
}

func (n *ctCreation) storagesAllowed(c *call) error {
	if c.authid == acl.Root {
		return nil
	}
	if n.restore {
		if err := c.mayRestoreFrom(n.archive, n.vmid); err != nil {
			return err
		}
		// Without a rootfs in the call its storage counts, though the volumes
		// may go elsewhere.
		if _, ok := n.params["rootfs"]; !ok && !c.mayLocked("/storage/"+n.storage, "Datastore.AllocateSpace") {
			return denied("/storage/%s, Datastore.AllocateSpace", n.storage)
		}
	}
	store, _, _ := strings.Cut(n.archive, ":")
	if !n.restore && !c.mayLocked("/storage/"+store, "Datastore.AllocateSpace", "Datastore.Audit") {
		return denied("/storage/%s, Datastore.AllocateSpace|Datastore.Audit", store)
	}
	for _, d := range n.newDisks() {
		if c.sim.storage(d.storage) == nil {
			return die("storage '%s' does not exist", d.storage)
		}
		if !c.mayLocked("/storage/"+d.storage, "Datastore.AllocateSpace") {
			return denied("/storage/%s, Datastore.AllocateSpace", d.storage)
		}
	}
	if _, ok := n.params["rootfs"]; !ok && !n.restore && slices.ContainsFunc(slices.Collect(maps.Keys(n.params)), isMP) {
		return die("mount points configured, but 'rootfs' not set - aborting")
	}
	return nil
}

func isMP(key string) bool { return strings.HasPrefix(key, "mp") && isDiskKey(key) }

// reserve puts the placeholder config into place.
func (n *ctCreation) reserve(s *Sim) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noQuorum {
		return die("cluster not ready - no quorum?")
	}
	if n.replaces {
		g := s.guests[n.vmid]
		if err := g.checkLock(); err != nil {
			return err
		}
		s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { c.Current.Set("lock", "create") }))
		return nil
	}
	g := s.newGuestLocked(guest.LXC, n.vmid, conf.New(guest.LXC, guest.VMID(n.vmid), map[string]string{"lock": "create"}))
	s.touchLocked(g)
	return nil
}

// base is the config a create begins with.
func (n *ctCreation) base(s *Sim) *conf.Guest {
	vals := map[string]string{
		"arch": "amd64", "ostype": n.osType(), "hostname": fmt.Sprintf("CT%d", n.vmid), "memory": "512", "swap": "512",
	}
	// A privileged container does not say so: the key is left out.
	if v, ok := n.params["unprivileged"]; v == "1" || !ok && s.major >= 9 {
		vals["unprivileged"] = "1"
	}
	return conf.New(guest.LXC, guest.VMID(n.vmid), vals)
}

var osNameRE = regexp.MustCompile(`^(debian|ubuntu|centos|fedora|opensuse|archlinux|alpine|gentoo|nixos|devuan)`)

// osType is what PVE would find in the archive; the double knows it by the
// archive's name.
func (n *ctCreation) osType() string {
	if v := n.params["ostype"]; v != "" {
		return v
	}
	if m := osNameRE.FindString(path.Base(n.archive)); m != "" {
		return m
	}
	return "unmanaged"
}

// work is the task of a create or restore.
func (n *ctCreation) work(t *task) error {
	s := t.sim
	unlock, err := s.lockGuest(t.ctx, guest.LXC, n.vmid, t.say)
	if err != nil {
		return err
	}
	defer unlock()
	cfg, err := n.fill(t)
	if t.wasKilled() {
		return errInterrupted
	}
	if err != nil {
		n.undo(s)
		verb := "create"
		if n.restore {
			verb = "restore"
		}
		if s.major >= 9 && !n.restore {
			t.say(err.Error() + "\n")
		}
		return die("unable to %s CT %d - %s", verb, n.vmid, err.Error())
	}
	n.finish(t, cfg)
	if n.start {
		_, err = s.fork("vzstart", itoa(n.vmid), n.user, s.ctStartTask(n.vmid))
	}
	return err
}

// undo removes what a failed create left.
func (n *ctCreation) undo(s *Sim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[n.vmid]
	switch {
	case g == nil:
	case n.replaces:
		s.setConfLocked(g, g.conf.Edit(func(c *conf.Guest) { delete(c.Current.Values, "lock") }))
	default:
		s.removeLocked(g)
	}
}

func (n *ctCreation) finish(t *task, cfg *conf.Guest) {
	s := t.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[n.vmid]
	old := g.conf
	s.setConfLocked(g, cfg)
	if n.replaces {
		s.dropVolumesOf(old, cfg)
	}
	if p := s.acl.Pools[n.pool]; p != nil {
		p.VMs[n.vmid] = true
	}
	what := "create"
	if n.restore {
		what = "restore"
	}
	s.noteLocked(Mutation{Kind: "lxc", VMID: n.vmid, What: what, User: n.user, UPID: t.upid})
}

// dropVolumesOf removes the volumes of a config that is being replaced.
func (s *Sim) dropVolumesOf(old, cfg *conf.Guest) {
	keep := map[string]bool{}
	for k, v := range cfg.Current.Values {
		if isDiskKey(k) {
			id, _ := diskOf(v)
			keep[id] = true
		}
	}
	for k, v := range old.Current.Values {
		if id, _ := diskOf(v); isDiskKey(k) && !keep[id] {
			s.dropVolume(id)
		}
	}
}

// fill makes the volumes and unpacks the archive; the time it takes is that
// of a small template on a fast disk.
func (n *ctCreation) fill(t *task) (*conf.Guest, error) {
	s := t.sim
	if n.restore {
		return n.fillRestore(t)
	}
	cfg, err := n.makeDisks(t, n.base(s), n.newDisks())
	if err != nil {
		return nil, err
	}
	size, ok := s.volumeSize(n.archive)
	if !ok {
		return nil, fmt.Errorf("volume '%s' does not exist", n.archive)
	}
	if !t.wait(s.scaled(300 * time.Millisecond)) {
		return nil, errInterrupted
	}
	t.say(fmt.Sprintf("extracting archive '%s'\n", s.volumePath(n.archive)))
	t.say(bytesRead(size))
	n.sayDistribution(t)
	return n.putKeys(s, cfg, n.params)
}

// volumeSize returns the unpacked size of an archive.
func (s *Sim) volumeSize(volid string) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volume(volid)
	if v == nil {
		return 0, false
	}
	return either3(v.Unpacked, 2*v.Size), true
}

func either3(a, b int64) int64 {
	if a != 0 {
		return a
	}
	return b
}

func bytesRead(n int64) string {
	return fmt.Sprintf("Total bytes read: %d (%s, %dMiB/s)\n", n, tarSize(n), 80)
}

// tarSize is a size as tar prints it.
func tarSize(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if f < 1024 || unit == "GiB" {
			return strconv.FormatFloat(float64(int64(f*10+0.9999))/10, 'f', 1, 64) + unit
		}
		f /= 1024
	}
	return ""
}

var debianRE = regexp.MustCompile(`^debian-?(\d+)`)

// sayDistribution is what the set-up of the guest's files prints.
func (n *ctCreation) sayDistribution(t *task) {
	if n.osType() == "unmanaged" {
		if t.sim.major < 9 {
			t.say("implement me in sub-class\n at /usr/share/perl5/PVE/LXC/Setup.pm line 146.\n")
			t.say("Architecture detection failed: error in setup task (eval)\n")
		}
		t.say("Falling back to amd64.\nUse `pct set VMID --arch ARCH` to change.\n")
		return
	}
	if m := debianRE.FindStringSubmatch(path.Base(n.archive)); m != nil {
		if v, err := strconv.Atoi(m[1]); err == nil && v > 14 {
			t.warn(fmt.Sprintf("The container's Debian version '%d' is newer than the tested version '14'. While everything may work "+
				"fine, full compatibility cannot be guaranteed. Please check for PVE system updates.", v))
		}
	}
	t.say("Detected container architecture: amd64\n")
}
