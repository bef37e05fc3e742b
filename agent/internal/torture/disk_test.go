// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// inner marks the process that runs in a mount namespace of its own, so that no mount outlives it.
const inner = "FELHOM_TORTURE_INNER"

// inNamespace runs the calling test again in its own mount namespace and reports true in the process that is there.
func inNamespace(t *testing.T, scenario string) bool {
	if os.Getenv(inner) != "" {
		return true
	}
	t.Parallel()
	if os.Getuid() != 0 {
		Row{Scenario: scenario, Skipped: "mounting needs root"}.Print()
		return false
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", self, "-test.run", "^"+t.Name()+"$", "-test.timeout", "20m")
	cmd.Env = append(os.Environ(), inner+"=1", "FELHOM_BIN="+bin)
	out, err := cmd.CombinedOutput()
	fmt.Printf("\n%s\n", out) // its row
	if err != nil {
		if len(out) == 0 || strings.HasPrefix(string(out), "unshare:") {
			Row{Scenario: scenario, Skipped: fmt.Sprintf("no mount namespace: %v", err)}.Print()
			return false
		}
		t.Errorf("%v: %s", err, out)
	}
	return false
}

// command runs a system program.
func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// feeder posts hook events without pause and remembers those that were acknowledged.
type feeder struct {
	stop chan struct{}
	// some is closed when the first was acknowledged.
	some  chan struct{}
	done  sync.WaitGroup
	acked []string // to be read after the end
}

func (r *rig) feed() *feeder {
	f := &feeder{stop: make(chan struct{}), some: make(chan struct{})}
	f.done.Go(func() {
		for {
			select {
			case <-f.stop:
				return
			default:
			}
			e := hook.New(guest.VMID(101), guest.PostStart, "")
			if err := hook.Post(filepath.Join(r.dir, "run/hook.sock"), e, time.Second); err == nil {
				if f.acked = append(f.acked, e.ID); len(f.acked) == 1 {
					close(f.some)
				}
			} else {
				time.Sleep(5 * time.Millisecond)
			}
		}
	})
	return f
}

func (f *feeder) end() []string {
	close(f.stop)
	f.done.Wait()
	return f.acked
}

// judgeEvents finds acknowledged events that the journal does not have.
func (r *rig) judgeEvents(acked []string) (v Verdict) {
	s, err := ReadStory(fsys.OS{}, filepath.Join(r.state, "journal"))
	if err != nil {
		v.Jam("%v", err)
		return v
	}
	all := strings.Join(s.Payloads, "\n")
	for _, id := range acked {
		if !strings.Contains(all, `"`+id+`"`) {
			v.Lose("event %s was acknowledged and is not in the journal", id)
		}
	}
	return v
}

// shutdownIoctl is EXT4_IOC_SHUTDOWN, which XFS has too; noLogFlush loses what was not synced.
const (
	shutdownIoctl = 0x8004587d
	noLogFlush    = 2
)

func cutPower(mount string) error {
	fd, err := unix.Open(mount, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetPointerInt(fd, shutdownIoctl, noLogFlush)
}

// freeze stops the agent and waits until no call of its is under way in the kernel. A file system that is shut down in the
// middle of an fdatasync may say yes to it although the record is gone (Linux 6.18, ext4, of a bare loop of appends: in 4
// of 60 tries); where the power is cut nobody is told anything then.
func (r *rig) freeze() {
	pid := r.agent.Process.Pid
	r.must(syscall.Kill(pid, syscall.SIGSTOP))
	if !r.wait("all threads stop", time.Minute, func() bool { return stopped(pid) }) {
		r.t.Error("the agent does not stop")
	}
}

func (r *rig) thaw() { r.must(syscall.Kill(r.agent.Process.Pid, syscall.SIGCONT)) }

// stopped tells whether each thread of a process is stopped.
func stopped(pid int) bool {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return false
	}
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			return false
		}
		if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") { // the name may have spaces
			return false
		}
	}
	return true
}

// TestTorturePowerCut shuts a real file system down under the running agent: what was not synced is gone and each call
// fails with EIO from then on. The agent must acknowledge and change nothing any more; after the mount everything that
// it acknowledged is there.
func TestTorturePowerCut(t *testing.T) {
	onDemand(t)
	const name = "host/power cut and EIO (ext4)"
	if !inNamespace(t, name) {
		return
	}
	seed := seedOf(t)
	row, v := Row{Scenario: name}, Verdict{}
	for i := range uint64(size(1, 1, 30)) {
		got, err := powerCutRound(t, rand.New(rand.NewPCG(seed, i)))
		if err != nil {
			Row{Scenario: name, Skipped: err.Error()}.Print()
			return
		}
		row.Rounds++
		v.Add(fmt.Sprintf("FELHOM_SEED=%d round %d", seed, i), got)
	}
	report(t, row, v)
}

func powerCutRound(t *testing.T, rnd *rand.Rand) (v Verdict, err error) {
	dir, err := os.MkdirTemp("", "powercut")
	if err != nil {
		return v, err
	}
	defer os.RemoveAll(dir)
	img, mnt := filepath.Join(dir, "img"), filepath.Join(dir, "m")
	mount := []string{"mount", "-o", "loop", img, mnt}
	for _, c := range [][]string{{"mkdir", mnt}, {"truncate", "-s", "64M", img}, {"mkfs.ext4", "-q", img}, mount} {
		if err := command(c...); err != nil {
			return v, err
		}
	}
	defer func() { _ = command("umount", "-l", mnt) }()
	r := newRig(t, filepath.Join(mnt, "state"))
	r.must(os.Mkdir(r.state, 0o700))
	r.start("")
	feed := r.feed()
	select { // on a busy machine the agent takes a while to listen
	case <-feed.some:
	case <-time.After(time.Minute):
		v.Jam("nothing was acknowledged within a minute")
	}
	time.Sleep(time.Duration(rnd.IntN(4000)) * time.Millisecond)
	r.freeze()
	err = cutPower(mnt)
	r.thaw()
	if err != nil {
		feed.end()
		return v, fmt.Errorf("this kernel cannot shut a file system down: %w", err)
	}
	time.Sleep(time.Second)
	acked := feed.end()
	v.Add("after the cut", r.deaf())
	r.kill()
	if !r.wait("umount", 20*time.Second, func() bool { return command("umount", mnt) == nil }) {
		v.Jam("the file system is still in use after the agent was killed")
		return v, nil
	}
	if err := command(mount...); err != nil {
		return v, err
	}
	r.start("")
	v.Add("recovered", r.judge(recovery))
	v.Add(fmt.Sprintf("%d events", len(acked)), r.judgeEvents(acked))
	r.kill()
	_ = r.wait("umount", 20*time.Second, func() bool { return command("umount", mnt) == nil })
	return v, nil
}

// deaf checks that an agent that cannot write acknowledges nothing.
func (r *rig) deaf() (v Verdict) {
	if err := hook.Post(filepath.Join(r.dir, "run/hook.sock"), hook.New(101, guest.PostStart, ""), 2*time.Second); err == nil {
		v.Lose("an event was acknowledged although nothing can be written")
	}
	return v
}

// TestTortureDiskFull fills the disk under the running agent: it only observes, and goes on by itself when there is room.
func TestTortureDiskFull(t *testing.T) {
	onDemand(t)
	const name = "host/disk full (tmpfs)"
	if !inNamespace(t, name) {
		return
	}
	mnt := t.TempDir()
	if err := command("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mnt); err != nil {
		Row{Scenario: name, Skipped: err.Error()}.Print()
		return
	}
	defer func() { _ = command("umount", "-l", mnt) }()
	r := newRig(t, filepath.Join(mnt, "state"))
	r.must(os.Mkdir(r.state, 0o700))
	r.start("")
	row, v := Row{Scenario: name}, r.judge(recovery)
	for range size(1, 1, 5) {
		row.Rounds++
		v.Add(fmt.Sprint("round ", row.Rounds), r.fullRound(filepath.Join(mnt, "filler")))
	}
	r.kill()
	report(t, row, v)
}

func (r *rig) fullRound(filler string) (v Verdict) {
	_ = os.WriteFile(filler, make([]byte, 1<<20), 0o600) // as much as there is room for
	full := func() bool { return len(r.deaf().Texts) == 0 }
	if !r.wait("the disk is full", 10*time.Second, full) {
		v.Jam("the disk did not become full")
	}
	before := r.ours()
	r.must(exec.Command(filepath.Join(r.bin, "pvesim"), "--dir", filepath.Join(r.dir, "pve"), "pct", "set", "101", "--cores", "4").Run())
	time.Sleep(3 * time.Second)
	if after := r.ours(); after != before {
		v.Lose("%d changes were made although nothing can be written", after-before)
	}
	if out, ok := r.run("status"); !ok || !strings.Contains(out, "journal") {
		v.Jam("status does not say that the journal cannot be written: %.300s", out)
	}
	r.must(os.Remove(filler))
	v.Add("room again", r.judge(time.Minute))
	if after := r.ours(); after == before {
		v.Jam("nothing was done although there is room again")
	}
	return v
}

// ours counts what the node executed for the agent.
func (r *rig) ours() (n int) {
	rec, err := r.record()
	r.must(err)
	for _, m := range rec {
		if m.User == r.user {
			n++
		}
	}
	return n
}
