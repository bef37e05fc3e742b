// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package op

import (
	"testing"
	"time"
)

func TestMoves(t *testing.T) {
	all := []State{"", Planned, Awaiting, Granted, Intent, Started, Unknown, Succeeded, Failed, Refused, Abandoned, Retried}
	legal := map[[2]State]bool{
		{"", Planned}: true, {"", Awaiting}: true, {"", Intent}: true,
		{Planned, Awaiting}: true, {Planned, Intent}: true, {Planned, Refused}: true, {Planned, Abandoned}: true,
		{Awaiting, Awaiting}: true, {Awaiting, Granted}: true, {Granted, Intent}: true, {Granted, Refused}: true, {Granted, Abandoned}: true,
		{Granted, Failed}: true, {Retried, Failed}: true,
		{Awaiting, Intent}: true, {Awaiting, Refused}: true, {Awaiting, Abandoned}: true,
		{Intent, Started}: true, {Intent, Succeeded}: true, {Intent, Failed}: true, {Intent, Refused}: true,
		{Intent, Unknown}: true, {Intent, Retried}: true, {Intent, Abandoned}: true,
		{Started, Succeeded}: true, {Started, Failed}: true, {Started, Refused}: true, {Started, Unknown}: true, {Started, Retried}: true,
		{Started, Abandoned}: true,
		{Unknown, Succeeded}: true, {Unknown, Failed}: true, {Unknown, Abandoned}: true,
		{Retried, Intent}: true, {Retried, Refused}: true, {Retried, Abandoned}: true,
	}
	for _, from := range all {
		for _, to := range all {
			o := Op{ID: "x", State: from}
			err := o.Move(to)
			if got := err == nil; got != legal[[2]State{from, to}] {
				t.Errorf("move %q -> %q: legal = %v, want %v", from, to, got, !got)
			}
			if err != nil && o.State != from {
				t.Errorf("move %q -> %q was refused and changed the state to %q", from, to, o.State)
			}
		}
	}
}

func TestSucceededOpCannotStartAgain(t *testing.T) {
	for _, s := range []State{Succeeded, Failed, Refused, Abandoned} {
		if !s.Ended() {
			t.Errorf("%s has not ended", s)
		}
		if s.Can(Intent) {
			t.Errorf("an op that is %s can be sent again", s)
		}
	}
}

func TestJournalledHasNoSecret(t *testing.T) {
	o := Op{Set: map[string]string{"cipassword": "hunter2", "cores": "2"}, Secret: []string{"cipassword"}}
	j := o.Journalled()
	if j.Set["cipassword"] != Masked || j.Set["cores"] != "2" {
		t.Errorf("journalled set = %v", j.Set)
	}
	if o.Set["cipassword"] != "hunter2" {
		t.Error("masking changed the op itself")
	}
	if !o.HasSecrets() {
		t.Error("HasSecrets = false")
	}
}

func TestIDsSortByTime(t *testing.T) {
	a, b := NewID(time.UnixMilli(1000)), NewID(time.UnixMilli(1001))
	if a >= b || len(a) != 22 {
		t.Errorf("ids %q, %q", a, b)
	}
}
