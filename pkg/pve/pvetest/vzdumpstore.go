// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// globalLock takes the node's lock for backup jobs. A job that may not wait
// for it ends without a word on its status.
func (b *backup) globalLock(t *task) (func(), error) {
	wait := time.Duration(b.call.in.Int("lockwait", 180)) * time.Minute
	say := func(text string) {
		switch {
		case wait == 0:
		case strings.HasPrefix(text, "trying"):
			t.say("INFO: trying to get global lock - waiting...\n")
		default:
			t.say("INFO: got global lock\n")
		}
	}
	unlock, err := t.sim.lock(t.ctx, globalLock, wait, say)
	if err != nil {
		t.say(fmt.Sprintf("ERROR: can't acquire lock '%s' (wait = %d)\n", globalLock, int(wait.Minutes())))
		t.endSilently()
		return nil, err
	}
	return unlock, nil
}

// endSilently makes the task end without a status line, as a worker that
// exits does.
func (t *task) endSilently() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forced = unexpectedStatus
}

// bandwidth is the limit of the job in KiB/s, 0 = none.
func (b *backup) bandwidth(s *Sim) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return b.call.in.Int("bwlimit", s.datacenter.BackupBandwidth)
}

// transfer is how long the bandwidth limit makes an archive take.
func (b *backup) transfer(s *Sim, size int64) time.Duration {
	bw := b.bandwidth(s)
	if bw == 0 {
		return 0
	}
	return time.Duration(float64(size) / float64(bw<<10) * float64(time.Second))
}

// keep is how many backups of a guest are to stay (keep-last), 0 = all: the
// job's own setting or the storage's.
func (b *backup) keep(s *Sim) int {
	n := 0
	if st := s.storage(b.storage); st != nil {
		n = st.Keep
	}
	if !b.call.in.Has("prune-backups") {
		return n
	}
	for part := range strings.SplitSeq(b.call.in.Get("prune-backups"), ",") {
		if v, ok := strings.CutPrefix(part, "keep-last="); ok {
			if n, err := strconv.Atoi(v); err == nil {
				return n
			}
		}
	}
	return 0
}

func (b *backup) removes() bool {
	return !b.call.in.Has("remove") || b.call.in.Bool("remove")
}

// backupsOf are a guest's unprotected backups on the job's storage, oldest
// first. Needs mu.
func (b *backup) backupsOf(s *Sim, g *guestState) []*volumeState {
	var out []*volumeState
	for _, v := range s.storage(b.storage).sorted() {
		if v.Content == "backup" && v.VMID == g.vmid && !v.protected && strings.Contains(v.VolID, "-"+string(g.kind)+"-") {
			out = append(out, v)
		}
	}
	slices.SortStableFunc(out, func(a, b *volumeState) int { return int(a.CTime - b.CTime) })
	return out
}

// room refuses a backup too many when the job may not remove old ones.
func (b *backup) room(s *Sim, g *guestState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := b.keep(s)
	if keep == 0 || b.removes() || len(b.backupsOf(s, g)) < keep {
		return nil
	}
	return die("There is a max backup limit of %d enforced by the target storage or the vzdump parameters. Either increase the limit or delete old backups.", keep)
}

// prune removes the oldest backups over the number to keep. Needs mu.
func (b *backup) prune(t *task, g *guestState) {
	s := t.sim
	keep := b.keep(s)
	if keep == 0 || !b.removes() {
		return
	}
	t.say(fmt.Sprintf("INFO: prune older backups with retention: keep-last=%d\n", keep))
	all := b.backupsOf(s, g)
	gone := all[:max(0, len(all)-keep)]
	for _, v := range gone {
		t.say(fmt.Sprintf("INFO: removing backup '%s'\n", v.VolID))
		s.dropVolume(v.VolID)
	}
	t.say(fmt.Sprintf("INFO: pruned %d backup(s) not covered by keep-retention policy\n", len(gone)))
}

// tempDir is where the job keeps its files while it works: beside the
// archive, unless that file system has no access control lists.
func (b *backup) tempDir(t *task, g *guestState) string {
	return fmt.Sprintf("/var/tmp/vzdumptmp%d_%d", t.pid, g.vmid)
}

// sayFileSystem tells that temporary files go elsewhere.
func (b *backup) sayFileSystem(t *task) {
	s := t.sim
	s.mu.Lock()
	fs := s.storage(b.storage).FileSystem
	var cts []*guestState
	for _, id := range b.ids {
		n, err := strconv.Atoi(id)
		if g := s.guests[n]; err == nil && g != nil && g.kind == guest.LXC {
			cts = append(cts, g)
		}
	}
	s.mu.Unlock()
	for _, g := range cts {
		if fs == "tmpfs" {
			t.say(fmt.Sprintf("INFO: filesystem type on dumpdir is '%s' -using %s for temporary files\n", fs, b.tempDir(t, g)))
		}
	}
}

// writable fails as the archiver does when it is not there or when the
// storage is too small; base is the archive's path without its extension.
func (b *backup) writable(t *task, g *guestState, base string) error {
	s := t.sim
	if g.kind == guest.QEMU {
		return b.vma(t, g, base)
	}
	s.mu.Lock()
	size, st := s.usedBy(g), s.storage(b.storage)
	avail, fs := st.avail(), st.FileSystem
	s.mu.Unlock()
	if size <= avail {
		return nil
	}
	written := avail / 10240 * 10240
	t.say(fmt.Sprintf("INFO: Total bytes written: %d (%s, ?/s)\n", written, tarSize(written)))
	t.say("INFO: tar: -: Cannot write: No space left on device\nINFO: tar: Error is not recoverable: exiting now\n")
	dir := base + ".tmp"
	if fs == "tmpfs" {
		dir = b.tempDir(t, g)
	}
	return die("command '%s >%s.dat' failed: exit code 2", tarCommand(g, dir), base)
}

// tarCommand is the command PVE archives a container with.
func tarCommand(g *guestState, dir string) string {
	var c strings.Builder
	c.WriteString("set -o pipefail && ")
	if g.value("unprivileged") == "1" {
		c.WriteString("lxc-usernsexec -m u:0:100000:65536 -m g:0:100000:65536 -- ")
	}
	c.WriteString("tar cpf - --totals --one-file-system -p --sparse --numeric-owner --acls --xattrs " +
		"'--xattrs-include=user.*' '--xattrs-include=security.capability' '--warning=no-file-ignored' '--warning=no-xattr-write' " +
		"--one-file-system '--warning=no-file-ignored' '--directory=" + dir + "' ./etc/vzdump/pct.conf ./etc/vzdump/pct.fw " +
		"'--directory=/mnt/vzsnap0' --no-anchored '--exclude=lost+found' --anchored '--exclude=./tmp/?*' '--exclude=./var/tmp/?*' " +
		"'--exclude=./var/run/?*.pid' ./")
	for _, k := range disksOf(g.conf.Current, false) {
		if v := g.value(k); isMP(k) && strings.Contains(v, "backup=1") {
			c.WriteString(" ." + mountPath(v))
		}
	}
	return c.String()
}

// mountPath is where a mount point is in the container.
func mountPath(value string) string {
	for part := range strings.SplitSeq(value, ",") {
		if p, ok := strings.CutPrefix(part, "mp="); ok {
			return path.Clean(p)
		}
	}
	return ""
}

// vma is the beginning of a virtual machine's archive.
func (b *backup) vma(t *task, g *guestState, base string) error {
	if g.up {
		return nil // QEMU writes it itself
	}
	for _, k := range disksOf(g.conf.Current, false) {
		if !isCDROM(g.value(k)) {
			t.say("INFO: starting kvm to execute backup task\n")
			return nil
		}
	}
	t.say("INFO: backup contains no disks\nINFO: starting diskless backup\n")
	conf, dat := base+".tmp/qemu-server.conf", base+".dat"
	t.say(fmt.Sprintf("INFO: /usr/bin/vma create -v -c %s exec:cat > %s\n", conf, dat))
	if !t.sim.opt.Lacks.QEMUPatches {
		return nil
	}
	return die("command '/usr/bin/vma create -v -c %[1]s 'exec:cat > %[2]s'' failed: open3: exec of /usr/bin/vma create -v -c %[1]s "+
		"exec:cat > %[2]s failed: No such file or directory at /usr/share/perl5/PVE/Tools.pm line 527.", conf, dat)
}
