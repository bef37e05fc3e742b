// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// TestTasksGap: whoever sees only the tasks of its own token is told so.
func TestTasksGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		ask := func() string {
			o, err := r.Guest(t.Context(), plugin.GuestQuery{VMID: 101, TasksSince: time.Now().Add(-time.Hour), Inventory: true})
			if err != nil {
				t.Fatal(err)
			}
			return o.TasksGap
		}
		if gap := ask(); gap != "" {
			t.Errorf("all tasks are there, and it says: %s", gap)
		}
		r.sim.SetRole("Full", []string{"VM.Audit", "Datastore.Audit"})
		if gap := ask(); !strings.Contains(gap, "no Sys.Audit on /nodes/pve1") {
			t.Errorf("without Sys.Audit it says %q", gap)
		}
	})
}
