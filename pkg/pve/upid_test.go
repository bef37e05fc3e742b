// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseUPID(t *testing.T) {
	tests := []struct {
		in   string
		want UPID
	}{
		{
			"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:",
			UPID{"pve1", 0xECF, 0x2E7C5, 0x6B03F3D8, "vzstart", "101", "agent@pve!full"},
		},
		{
			"UPID:n-1:003FF2A1:10A3B9C10:6862F3C4:stopall::root@pam:",
			UPID{"n-1", 0x3FF2A1, 0x10A3B9C10, 0x6862F3C4, "stopall", "", "root@pam"},
		},
		{
			"UPID:p:00000001:00000001:00000001:srvstart:pve-cluster:root@pam:",
			UPID{"p", 1, 1, 1, "srvstart", "pve-cluster", "root@pam"},
		},
	}
	for _, tt := range tests {
		got, err := ParseUPID(tt.in)
		if err != nil || got.String() != tt.in {
			t.Errorf("%s: printed %s, %v", tt.in, got, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.in, diff)
		}
	}
}

var badUPIDs = []string{
	"", "UPID:", "UPID:garbage",
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full",   // no trailing colon
	"UPID:pve1:00000ecf:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:",  // lower case
	"UPID:pve1:00000ECF:00002E7C5:6B03F3D8:vzstart:101:agent@pve!full:", // nine digits for eight
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8::101:agent@pve!full:",         // no type
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101::",                // no user
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vz/start:101:root@pam:",       // slash
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:1 1:root@pam:",        // blank
	"UPID:-pve:00000ECF:0002E7C5:6B03F3D8:vzstart:101:root@pam:",        // node
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:root@pam:\n",      // newline
	"xUPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:root@pam:",       // prefix
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:root@pam:x:",      // one field too many
	"UPID:pve1:00000ECF:0002E7C5:6B03F3D8:" + strings.Repeat("x", 500) + ":101:root@pam:",
}

func TestParseUPIDRefuses(t *testing.T) {
	for _, s := range badUPIDs {
		if u, err := ParseUPID(s); !errors.Is(err, ErrUPID) || !u.IsZero() || u.String() != "" {
			t.Errorf("ParseUPID(%q) = %v, %v", s, u, err)
		}
	}
}

// FuzzUPID: what parses prints back the same and names one path segment.
func FuzzUPID(f *testing.F) {
	f.Add("UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:")
	f.Add("UPID:pve1:00000ECF:10002E7C5:6B03F3D8:stopall::root@pam:")
	for _, s := range badUPIDs {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUPID(s)
		if err != nil {
			if !u.IsZero() {
				t.Errorf("an error and %+v", u)
			}
			return
		}
		if u.String() != s {
			t.Errorf("%q printed as %q", s, u)
		}
		if strings.ContainsAny(s, "/ \n\t") {
			t.Errorf("%q was let through", s)
		}
	})
}
