// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import "testing"

func TestExt4UsableIsWhatNodesShow(t *testing.T) {
	t.Parallel()
	// Seen on real nodes: a container on 1 GiB of directory storage.
	if got := ext4Usable(1 << 30); got != 1020702720 {
		t.Errorf("ext4Usable(1 GiB) = %d, want 1020702720", got)
	}
}
