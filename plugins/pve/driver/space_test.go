// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"testing"

	"github.com/felhom/felhom-agent/pkg/pve"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"8G": 8 << 30, "1536M": 1536 << 20, "4K": 4096, "1T": 1 << 40, "512": 512, "0.5G": 1 << 29, "": 0, "x": 0, "8 G": 0} {
		if got := sizeOf(text); got != want {
			t.Errorf("sizeOf(%q) = %d", text, got)
		}
	}
	for n, want := range map[int64]string{8 << 30: "8G", 1536 << 20: "1536M", 4096: "4K", 1 << 40: "1T", 1 << 50: "1024T", 512: "512", 0: "0"} {
		if got := pve.SizeText(n); got != want {
			t.Errorf("SizeText(%d) = %q", n, got)
		}
	}
}
