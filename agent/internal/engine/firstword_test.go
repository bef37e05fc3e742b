// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// TestFirstWord: what the first of two providers wants waits for the second,
// which may claim the same guest, but not for ever.
func TestFirstWord(t *testing.T) {
	two := func(s *Settings) { s.Required = map[string]bool{"dir": true, "hub": true} }
	t.Run("both claim it", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.change = two
			r.put(101, guest.Stopped, guest.Config{"cores": "2"})
			r.start(Enforce)
			defer r.stop()
			r.mustDesire(wantRunning)
			after(5 * time.Second)
			err := r.eng.SetDesired(r.t.Context(), "hub", plugin.Snapshot{Revision: "h", Files: []plugin.File{{Name: "h.toml", Data: []byte(wantRunning)}}})
			if err != nil {
				t.Fatal(err)
			}
			after(time.Hour)
			r.wantApplied()
		})
	})
	t.Run("the other stays silent", func(t *testing.T) {
		bubble(t, func(r *rig) {
			r.change = two
			r.put(101, guest.Stopped, guest.Config{"cores": "2"})
			r.start(Enforce)
			defer r.stop()
			r.mustDesire(wantRunning)
			after(9 * time.Second)
			r.wantApplied()
			after(time.Minute)
			r.wantApplied("101 set_config", "101 start")
		})
	})
}
