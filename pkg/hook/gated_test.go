// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

func TestMarkGated(t *testing.T) {
	dir := t.TempDir()
	for _, want := range [][]id.VMID{{}, {101, 102}, {102}, {102, 4711}, {}} {
		if err := MarkGated(dir, want); err != nil {
			t.Fatal(err)
		}
		var got []id.VMID
		for _, v := range []id.VMID{101, 102, 4711} {
			if Gated(dir, v) {
				got = append(got, v)
			}
		}
		if len(got) != len(want) {
			t.Errorf("gated %v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("gated %v, want %v", got, want)
			}
		}
	}
	if entries, err := ReadSpool(dir); err != nil || len(entries) > 0 {
		t.Errorf("the marks read as events: %v, %v", entries, err)
	}
	if err := MarkGated(dir+"/absent", []id.VMID{101}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if Gated(dir+"/absent", 101) {
		t.Error("gated without a spool")
	}
}
