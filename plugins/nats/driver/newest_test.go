// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"testing"
	"time"
)

// TestNewest: what is older is taken only if the bucket has not had the newer
// one.
func TestNewest(t *testing.T) {
	t.Parallel()
	first, second := time.Unix(1, 0), time.Unix(2, 0)
	for name, c := range map[string]struct {
		made  time.Time
		last  uint64
		taken bool
	}{
		"a replica that lags":     {first, 9, false},
		"a bucket made anew":      {second, 9, true},
		"one put back, and older": {first, 7, true},
	} {
		for _, how := range []string{"read", "heard"} {
			n := &newest{}
			at := func(made time.Time, last uint64) func() (time.Time, uint64, error) {
				return func() (time.Time, uint64, error) { return made, last, nil }
			}
			if err := n.take(5, at(first, 5)); err != nil {
				t.Fatal(err)
			}
			if how == "heard" {
				n.heard(8)
			} else if err := n.take(8, nil); err != nil {
				t.Fatal(err)
			}
			if err := n.take(6, at(c.made, c.last)); (err == nil) != c.taken {
				t.Errorf("%s, after one that was %s: %v", name, how, err)
			}
		}
	}
}
