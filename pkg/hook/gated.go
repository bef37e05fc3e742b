// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

// Gated reports whether the agent wants to be asked before a guest starts.
func Gated(spool string, vmid id.VMID) bool {
	var st syscall.Stat_t
	return syscall.Lstat(spool+"/"+gatedDir+"/"+vmid.String(), &st) == nil
}

// MarkGated makes the guests that are marked for [Gated] just these. The spool
// must exist, unless there are none.
func MarkGated(spool string, vmids []id.VMID) error {
	dir := spool + "/" + gatedDir
	marked, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if len(vmids) == 0 {
			return nil
		}
		err = os.Mkdir(dir, 0o750)
	}
	if err != nil {
		return fail("hook: mark gated guests", err)
	}
	var names []string
	for _, v := range vmids {
		names = append(names, v.String())
		f, err := os.OpenFile(dir+"/"+v.String(), os.O_WRONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return fail("hook: mark gated guests", err)
		}
	}
	for _, m := range marked {
		if slices.Contains(names, m.Name()) {
			continue
		}
		if err := os.Remove(dir + "/" + m.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail("hook: mark gated guests", err)
		}
	}
	return nil
}
