// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// notWritable are keys that a config shows and a write does not take back:
// what PVE keeps for itself, what cannot be changed after creation, and a
// password that is shown as a mask.
var notWritable = makeSet(`digest lxc meta parent snaptime vmstate runningmachine runningcpu unprivileged lock cipassword`)

// TestWriteBack writes what each recorded config shows, unchanged: the config
// must stay as it is (P6 rests on PVE doing so).
func TestWriteBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		list, _ := recordedWrites(t, kind)
		seen := make(map[string]bool)
		n := 0
		for _, r := range list {
			if seen[r.FileText] {
				continue
			}
			seen[r.FileText] = true
			g := parse(r.Kind, r.vmid(), r.FileText).SetRunning(r.State == "running")
			if strings.Contains(r.FileText, "rootfs: local:1") || g.Lock() != "" || g.Template() {
				continue // a literal new-volume text is no volume; a lock refuses every write
			}
			n++
			writeBack(t, &r, g)
		}
		t.Logf("%s: %d configs", kind, n)
	}
}

func writeBack(t *testing.T, r *recorded, g *Guest) {
	t.Helper()
	view := g.View(false)
	params := asText(view)
	maps.DeleteFunc(params, func(k, _ string) bool { return notWritable[k] || knownIn(8, g.Kind, k) == nil })
	env := r.env(g)
	env.Host = Host{CgroupV1: true, QEMU: "7.2.22"}
	env.Bridges = map[string]Bridge{"vmbr0": {VLANAware: true}, "nobr": {VLANAware: true}}
	res := g.Put(Request{Version: 8, Caller: Caller{User: rootUser}, Params: params, Env: env})
	if res.Err != nil {
		if !expectedRefusal(g, res.Err) {
			t.Errorf("%s: %v\n%s", r.ID, res.Err, g.Text())
		}
		return
	}
	after := res.Guest.View(false)
	for _, v := range []map[string]any{view, after} {
		delete(v, "digest")
		if k := g.cloudInitDrive(); k != "" {
			delete(v, k) // recorded: it comes back with the size of its image
		}
	}
	if d := cmp.Diff(view, after); d != "" {
		t.Errorf("%s: written back, it changed (-before +after)\n%s", r.ID, d)
	}
	if left := lasting(res.Effects); len(left) > 0 {
		t.Errorf("%s: written back, it had the effects %v", r.ID, left)
	}
}

// lasting are the effects that do not undo each other: a cloud-init image is
// freed and made anew.
func lasting(effects []Effect) map[string]int {
	left := make(map[string]int)
	for _, e := range effects {
		left[e.Volume] += map[EffectOp]int{Allocate: 1, Free: -1, Resize: 1}[e.Op]
		if left[e.Volume] == 0 {
			delete(left, e.Volume)
		}
	}
	return left
}

// expectedRefusal reports whether PVE itself refuses what it shows: a file
// edited by hand, values it took through a door that checks less.
func expectedRefusal(g *Guest, err *Error) bool {
	for k, text := range err.Errors {
		if strings.HasPrefix(text, "hotplug problem") {
			return true // it is pending because it failed, and fails again
		}
		v := g.Current.Values[k]
		if p, ok := g.Pending.Values[k]; ok {
			v = p
		}
		if v == " " || strings.Contains(text, "type check") {
			return true // an empty value reads back as one blank
		}
	}
	if len(err.Errors["description"]) > 0 && len([]rune(g.Current.Values["description"])) > 8192 {
		return true // a container's gets a newline, and is then too long by one
	}
	if g.Kind == guest.LXC && g.Current.Values["arch"] == "" {
		return true // deleted by hand or by PVE's own API
	}
	protected := g.Current.Values["protection"] == "1" && strings.Contains(err.Message, "protection mode")
	busy := strings.Contains(err.Message, "qemu-img: Could not open")
	return protected || busy
}

// TestRefusedButChanged looks at the recorded writes that were refused and
// changed something all the same: the same keys must change here.
func TestRefusedButChanged(t *testing.T) {
	lxc, _ := recordedWrites(t, guest.LXC)
	qemu, _ := recordedWrites(t, guest.QEMU)
	st := newStates(lxc, qemu)
	byID := make(map[string]recorded)
	for _, r := range slices.Concat(lxc, qemu) {
		byID[r.ID] = r
	}
	n := 0
	for line := range bytes.Lines(testdata(t, "roundtrip/refused-but-changed.jsonl.gz")) {
		var want struct {
			ID      string
			Changed map[string]any
		}
		if err := decode(line, &want); err != nil {
			t.Fatal(err)
		}
		r, ok := byID[want.ID]
		if !ok {
			continue // left out of the round trips
		}
		n++
		g := st.before(&r)
		req := r.request()
		req.Env = r.env(g)
		res := g.Put(req)
		if res.Err == nil && res.TaskErr == "" {
			t.Errorf("%s: not refused", r.ID)
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(want.Changed)), changedKeys(g, res.Guest)); d != "" {
			t.Errorf("%s: changed keys (-recorded +model)\n%s", r.ID, d)
		}
	}
	if n == 0 {
		t.Error("no such record was found")
	}
	t.Logf("%d records", n)
}

func changedKeys(a, b *Guest) []string {
	before, after := asText(a.View(false)), asText(b.View(false))
	var out []string
	for k := range union(before, after) {
		if before[k] != after[k] && k != "digest" {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}
