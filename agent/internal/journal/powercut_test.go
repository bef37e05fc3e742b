// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestPowerCut shuts a real file system down under a process that appends, so that everything that was not synced is
// gone, mounts it again and looks for what was acknowledged. It needs root, a loop device and mkfs, and half a minute;
// FELHOM_TORTURE=full asks for it.
func TestPowerCut(t *testing.T) {
	if !full() {
		t.Skip("only with FELHOM_TORTURE=full")
	}
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) { powerCuts(t, kind, 20) })
	}
}

func powerCuts(t *testing.T, kind string, rounds int) {
	base := t.TempDir()
	image, mounted := filepath.Join(base, "image"), filepath.Join(base, "mounted")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20), os.Mkdir(mounted, 0o700)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs."+kind, "-q", image).CombinedOutput(); err != nil {
		t.Skipf("no %s here: %v: %s", kind, err, out)
	}
	mount := func() error { return exec.CommandContext(t.Context(), "mount", "-o", "loop", image, mounted).Run() }
	umount := func() error { return exec.CommandContext(t.Context(), "umount", mounted).Run() }
	if err := mount(); err != nil {
		t.Skipf("no mount here: %v", err)
	}
	defer func() { _ = exec.Command("umount", "-q", mounted).Run() }() // t's context has ended then
	dir, acked := filepath.Join(mounted, "journal"), []string(nil)
	var v verdict
	for range rounds {
		acked = append(acked, killOne(t, dir, func(p *os.Process) {
			freeze(p)
			if err := shutdown(mounted); err != nil {
				t.Error(err)
			}
			_ = p.Signal(syscall.SIGKILL)
		})...)
		if err := errors.Join(umount(), mount()); err != nil {
			t.Fatal(err)
		}
		judgeKilled(t, &v, dir, acked)
	}
	v.report(t, "power cut, "+kind+", random", acked)
}

// freeze stops a process and waits until no thread of it is in a call: to an fdatasync that is under way while the file
// system is shut down the kernel may say yes although the record is gone.
func freeze(p *os.Process) {
	_ = p.Signal(syscall.SIGSTOP)
	for stopped := false; !stopped; time.Sleep(time.Millisecond) {
		stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		stopped = !slices.ContainsFunc(stats, func(name string) bool {
			b, err := os.ReadFile(name)
			_, state, _ := strings.Cut(string(b), ") ")
			return err == nil && !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z")
		})
	}
}

// shutdown is FS_IOC_SHUTDOWN without flushing the file system's own log.
func shutdown(mounted string) error {
	f, err := os.Open(mounted)
	if err != nil {
		return err
	}
	defer f.Close()
	const ioctl, noLogFlush = 0x8004587d, 2
	flags := uint32(noLogFlush)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), ioctl, uintptr(unsafe.Pointer(&flags)))
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
