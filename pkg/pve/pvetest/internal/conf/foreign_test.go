// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestForeignComplaints(t *testing.T) {
	t.Parallel()
	// "arch: amd64" is none of a virtual machine's, but PVE does not look.
	const ct = "#text: more\narch: amd64\ncores: 1\nhostname: a\nmemory: 64\ntags: x\n\n[snap]\nswap: 1\n"
	got := ForeignComplaints(guest.QEMU, ct)
	want := []string{
		"unable to parse value of 'hostname' - unknown setting 'hostname'",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("complaints (-want +got):\n%s", diff)
	}
	if got := ForeignComplaints(guest.LXC, ct); got != nil {
		t.Errorf("a config of its own kind: %v", got)
	}
}
