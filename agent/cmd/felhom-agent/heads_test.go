// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
)

// TestHeadsAreTakenWhole: a mistyped head must not pass for another entry's, nor for the proof of a forgery.
func TestHeadsAreTakenWhole(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	got, err := heads([]string{"12:" + hash, "7:" + strings.ToUpper(hash)})
	if err != nil || len(got) != 2 || got[0].Seq != 12 || got[1].Hash != hash {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "12", "12:", "12x:" + hash, "-1:" + hash, ":" + hash, "12:" + hash[:12], "12:" + hash[:63] + "g"} {
		if got, err := heads([]string{bad}); !errors.Is(err, errUsage) {
			t.Errorf("%q is taken for %v, %v", bad, got, err)
		}
	}
}
