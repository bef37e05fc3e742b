// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// P1: also without signatures a set does not go back once it counts, and not
// across a restart either: a source may answer with what it had before. One that
// does not count is taken as it comes.
func TestSerialOfAnUnsignedSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		counted := func(serial, n int) string { return "serial = " + strconv.Itoa(serial) + "\n" + cores(n) }
		r := newRig(t)
		r.put(101, guest.Running, guest.Config{"cores": "1"})
		r.start(Enforce)
		after(time.Second)
		r.mustDesire(counted(7, 2))
		after(time.Minute)
		for range 2 {
			if err := r.desire(counted(6, 4)); err == nil || !strings.Contains(err.Error(), "serial 6 is older than the accepted serial 7") {
				t.Errorf("got %v", err)
			}
			after(time.Minute)
			if got := r.cores(); got != "2" {
				t.Errorf("%s cores", got)
			}
			r.stop()
			r.start(Enforce)
			after(time.Second)
		}
		r.mustDesire(counted(8, 3))
		after(time.Minute)
		if got := r.cores(); got != "3" {
			t.Errorf("%s cores", got)
		}
		r.mustDesire(cores(5))
		r.mustDesire(cores(3))
		r.stop()
	})
}
