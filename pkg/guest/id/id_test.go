// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package id

import (
	"strings"
	"testing"
)

func TestParseVMID(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want VMID // 0: refused
	}{
		{"100", 100},
		{"999999999", 999999999},
		{"99", 0},
		{"1000000000", 0},
		{"0101", 0},
		{"+101", 0},
		{"-101", 0},
		{" 101", 0},
		{"101\n", 0},
		{"1_000", 0},
		{"0x65", 0},
		{"", 0},
		{"99999999999999999999999", 0},
	} {
		got, err := ParseVMID(tt.in)
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("ParseVMID(%q) = %d, %v", tt.in, got, err)
		}
		if err == nil && got.String() != tt.in {
			t.Errorf("ParseVMID(%q).String() = %q", tt.in, got)
		}
		if err != nil && !strings.Contains(err.Error(), "from 100 to 999999999") {
			t.Errorf("ParseVMID(%q): %v does not say what is allowed", tt.in, err)
		}
	}
}

func TestPhaseValid(t *testing.T) {
	for p, want := range map[Phase]bool{
		PreStart: true, PostStart: true, PreStop: true, PostStop: true,
		"": false, "pre-start ": false, "PRE-START": false, "pre-migrate": false,
	} {
		if p.Valid() != want {
			t.Errorf("Phase(%q).Valid() = %v", p, !want)
		}
	}
}
