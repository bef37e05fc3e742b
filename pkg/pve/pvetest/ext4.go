// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

// ext4Usable is the size of the file system that mkfs.ext4 makes on a volume
// as statfs tells it: the volume without inode tables, journal, bitmaps and
// the copies of the group descriptors. It is what a running container's
// maxdisk shows.
func ext4Usable(size int64) int64 { return ext4Grown(size, size) }

// ext4Grown is the same for a file system that was made smaller and grown:
// it keeps the layout it was made with.
func ext4Grown(made, size int64) int64 {
	const block, perGroup, inodeSize, inodeRatio, descSize = 4096, 32768, 256, 16384, 64
	blocks := size / block
	if blocks < 2048 {
		return size
	}
	groups, born := ceilDiv(blocks, perGroup), made/block
	inodeBlocks := born * block / inodeRatio * inodeSize / block
	if born != blocks {
		inodeBlocks = inodeBlocks / ceilDiv(born, perGroup) * groups
	}
	descBlocks := ceilDiv(groups*descSize, block)
	reserved := min(ceilDiv(ceilDiv(min(born*1024, 1<<32), perGroup)*descSize, block)-descBlocks, 1024)
	over := inodeBlocks + journalBlocks(born) + 2*groups + superCopies(groups)*(1+descBlocks+reserved)
	return (blocks - over) * block
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// journalBlocks is mke2fs's default journal for a file system of so many
// 4 KiB blocks.
func journalBlocks(blocks int64) int64 {
	steps := []struct{ below, journal int64 }{
		{32 << 10, 1 << 10},
		{256 << 10, 4 << 10},
		{512 << 10, 8 << 10},
		{4 << 20, 16 << 10},
		{8 << 20, 32 << 10},
		{16 << 20, 64 << 10},
		{32 << 20, 128 << 10},
	}
	for _, s := range steps {
		if blocks < s.below {
			return s.journal
		}
	}
	return 256 << 10
}

// superCopies counts the groups that hold a copy of the superblock: 0, 1 and
// the powers of 3, 5 and 7.
func superCopies(groups int64) int64 {
	n := min(groups, 2)
	for _, base := range []int64{3, 5, 7} {
		for p := base; p < groups; p *= base {
			n++
		}
	}
	return n
}
