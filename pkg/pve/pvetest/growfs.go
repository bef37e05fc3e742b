// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import "fmt"

// growFS is what growing a container's file system prints; where the kernel
// does not grow a mounted one, it keeps its size and the task is OK all the
// same.
func (t *task) growFS(volid string, old int64, up bool) {
	s := t.sim
	s.mu.Lock()
	v := s.volume(volid)
	size := int64(0)
	if v != nil {
		size = v.Size
		if g := s.guests[v.VMID]; g != nil {
			g.row, g.resource = nil, nil
		}
		v.fs, v.made = 0, either3(v.made, old)
		if up && s.opt.Lacks.OnlineResize {
			v.fs = old
		}
	}
	s.mu.Unlock()
	t.say("Image resized.\n")
	if up {
		t.sayOnline(extBlocks(size))
		return
	}
	t.sayOffline(s.volumePath(volid), extBlocks(old), extBlocks(size))
}

// extTools names the version of the file system's tools.
func (t *task) extTools() string {
	if t.sim.major >= 9 {
		return "1.47.2 (1-Jan-2025)"
	}
	return "1.47.0 (5-Feb-2023)"
}

// sayOnline is the log of growing a mounted file system. From PVE 9 on the
// tool's complaints come before what it prints, which goes through a buffer.
func (t *task) sayOnline(blocks int64) {
	const dev = "/dev/loop0"
	refused := "resize2fs: Permission denied to resize filesystem\n"
	head := fmt.Sprintf("Filesystem at %s is mounted on /tmp; on-line resizing required\nold_desc_blocks = 1, new_desc_blocks = 1\n", dev)
	t.say("resize2fs " + t.extTools() + "\n")
	if !t.sim.opt.Lacks.OnlineResize {
		t.say(head + fmt.Sprintf("The filesystem on %s is now %d (4k) blocks long.\n\n", dev, blocks))
		return
	}
	if t.sim.major >= 9 {
		head, refused = refused, head
	}
	t.say(head + refused)
	t.say("Failed to update the container's filesystem: command 'unshare -m -- sh -c 'mount --make-rprivate / && mount " + dev +
		" /tmp && resize2fs " + dev + "'' failed: exit code 1\n\n")
}

// sayOffline is the log of a check and growth of a file system that is not
// mounted.
func (t *task) sayOffline(path string, old, blocks int64) {
	t.say("e2fsck " + t.extTools() + "\nPass 1: Checking inodes, blocks, and sizes\nPass 2: Checking directory structure\n" +
		"Pass 3: Checking directory connectivity\nPass 4: Checking reference counts\nPass 5: Checking group summary information\n")
	t.say(fmt.Sprintf("%s: %d/%d files (0.0%% non-contiguous), %d/%d blocks\n", path, 305, old/4, old/20, old))
	t.say("resize2fs " + t.extTools() + "\n")
	if blocks == old {
		t.say(fmt.Sprintf("The filesystem is already %d (4k) blocks long.  Nothing to do!\n\n", old))
		return
	}
	t.say(fmt.Sprintf("Resizing the filesystem on %s to %d (4k) blocks.\n", path, blocks))
	t.say(fmt.Sprintf("The filesystem on %s is now %d (4k) blocks long.\n\n", path, blocks))
}

const (
	extBlock    = 4096
	groupBlocks = 32768 // blocks of one block group
	// groupLeast is the smallest last group that is worth its own tables: the
	// inode table, two bitmaps and fifty blocks of data.
	groupLeast = 512 + 2 + 50
)

// extBlocks is how many blocks an ext4 file system of that many bytes has:
// a last group too small for its tables is left out.
func extBlocks(size int64) int64 {
	n := size / extBlock
	if rest := n % groupBlocks; n > groupBlocks && rest < groupLeast {
		n -= rest
	}
	return n
}
