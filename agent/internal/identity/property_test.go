// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// world makes guests and what happens to them.
type world struct{ *rand.Rand }

func (w world) oneOf(s ...string) string { return s[w.IntN(len(s))] }

// config is one of a guest of that kind, out of so few values that two of them
// often have something in common.
func (w world) config(kind guest.Kind) guest.Config {
	c := guest.Config{"name": w.oneOf("a", "b"), "vmgenid": fmt.Sprint(w.Int())}
	for i := range w.IntN(3) {
		mac := fmt.Sprintf("BC:24:11:00:00:%02X", w.IntN(4))
		c[fmt.Sprintf("net%d", i)] = map[guest.Kind]string{guest.LXC: "name=eth0,hwaddr=" + mac, guest.QEMU: "virtio=" + mac}[kind]
	}
	key := map[guest.Kind]string{guest.LXC: "mp", guest.QEMU: "scsi"}[kind]
	for i := range w.IntN(3) {
		c[fmt.Sprint(key, i)] = fmt.Sprintf("lvm:vm-101-disk-%d,size=%dG", w.IntN(3), w.IntN(9))
	}
	if kind == guest.QEMU && w.IntN(4) > 0 {
		c["smbios1"] = "uuid=8becca7a-a295-4be9-a8d0-0b72950cd7e" + w.oneOf("0", "1", "2")
		c["meta"] = "ctime=" + w.oneOf("1", "2")
	}
	return c
}

var (
	makings  = slices.Concat(creations, restores, deletions)
	everyday = []string{"vzstart", "qmstop", "vzdump", "qmsnapshot", "vzrollback", "resize", "qmclone", "hastart"}
)

// tasks are some of those types after since, among them with luck foreign
// ones; each ended.
func (w world) tasks(n int, types []string) []plugin.Task {
	var out []plugin.Task
	for range n {
		t := task(types[w.IntN(len(types))], float64(1+w.IntN(60)), w.oneOf("OK", "WARNINGS: 1", "unexpected status", ""))
		t.UPID = fmt.Sprint("UPID:", w.Int())
		out = append(out, t)
	}
	return out
}

func (w world) explained() []string {
	return [][]string{nil, {Everything}, {"net0"}, {AllVolumes}, {AllAddresses, "smbios1"}}[w.IntN(5)]
}

func (w world) kind() guest.Kind { return []guest.Kind{guest.LXC, guest.QEMU}[w.IntN(2)] }

// checkWorld holds one world against what must be true of all.
func checkWorld(t *testing.T, seed uint64) {
	w := world{rand.New(rand.NewPCG(seed, 1))}
	kind := w.kind()
	conf, other := w.config(kind), w.config(kind)
	known, seen := Of(kind, conf), Of(kind, other)
	quiet := w.tasks(w.IntN(5), everyday)
	calm := ContinuityOf(quiet, 101, noon, isOurs)
	explained := w.explained()

	// Nothing happened and nothing differs.
	if v, why := Judge(known, Of(kind, maps.Clone(conf)), calm, explained); v != Same || len(why) > 0 {
		t.Errorf("seed %d: unbroken and identical is %s %q", seed, v, why)
	}
	// A re-creation by somebody else, at any place among other tasks, with or
	// without tasks of ours: whatever the config, whatever is explained.
	list := slices.Concat(quiet, w.tasks(1+w.IntN(3), makings))
	for range w.IntN(3) {
		list = append(list, ours(w.tasks(1, makings)[0]))
	}
	w.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, now := range []Evidence{known, seen, {}} {
		if v, why := Judge(known, now, ContinuityOf(list, 101, noon, isOurs), explained); v != Stranger || len(why) == 0 {
			t.Errorf("seed %d: re-created by another is %s %q", seed, v, why)
		}
	}
	// The order of tasks counts for nothing.
	again := slices.Clone(list)
	slices.Reverse(again)
	if a, b := ContinuityOf(list, 101, noon, isOurs), ContinuityOf(again, 101, noon, isOurs); !reflect.DeepEqual(a, b) {
		t.Errorf("seed %d: order of tasks:\n%+v\n%+v", seed, a, b)
	}
	checkSteps(t, seed, known, seen, calm, explained)
}

// rank orders the verdicts by how much they allow.
var rank = map[Verdict]int{Stranger: 0, Changed: 1, Unsure: 1, Same: 2}

// checkSteps: to know less of the time between, or to have less explained,
// never allows more; and Same needs all of it.
func checkSteps(t *testing.T, seed uint64, known, seen Evidence, calm Continuity, explained []string) {
	v, why := Judge(known, seen, calm, explained)
	if (v == Same) != (len(why) == 0) {
		t.Errorf("seed %d: %s with the reasons %q", seed, v, why)
	}
	if less, _ := Judge(known, seen, calm, nil); rank[less] > rank[v] {
		t.Errorf("seed %d: %s without an explanation, %s with one", seed, less, v)
	}
	last := rank[v]
	for _, c := range []Continuity{
		{Known: true, Doubts: []string{"d"}}, {Known: true, Gone: []string{"g"}}, {Known: true, Recreated: []string{"r"}},
	} {
		less, _ := Judge(known, seen, c, explained)
		if rank[less] > last || less == Same {
			t.Errorf("seed %d: %s with %+v, rank %d before", seed, less, c, last)
		}
		last = rank[less]
	}
	for _, pair := range [][2]Evidence{{known, {}}, {{}, seen}, {{}, {}}} {
		if v, _ := Judge(pair[0], pair[1], calm, explained); v != Unsure {
			t.Errorf("seed %d: %s without evidence", seed, v)
		}
	}
}

func TestWorlds(t *testing.T) {
	for seed := range uint64(800) {
		checkWorld(t, seed)
	}
}

func FuzzWorlds(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(checkWorld)
}

// FuzzOf: any text of a plugin gives bounded evidence of the known form, and
// the same guest is the same.
func FuzzOf(f *testing.F) {
	f.Add(true, "net0", "name=eth0,hwaddr=BC:24:11:AA:BB:CC", "rootfs", "local:101/vm-101-disk-0.raw,size=1G")
	f.Add(false, "smbios1", "uuid=8becca7a-a295-4be9-a8d0-0b72950cd7e8", "ide2", "file=lvm:x,media=cdrom")
	f.Add(false, "meta", "ctime=1", "unused0", "volume=lvm:x,,=,file=")
	f.Fuzz(func(t *testing.T, ct bool, k1, v1, k2, v2 string) {
		kind := guest.QEMU
		if ct {
			kind = guest.LXC
		}
		conf := guest.Config{k1: v1, k2: v2}
		e := Of(kind, conf)
		for _, fact := range e.facts() {
			if len(fact.field) > 12 || len(fact.value) > 600 || strings.ContainsFunc(fact.value, func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Errorf("%+v", fact)
			}
			if !explains(Changes(plugin.Action{Kind: plugin.SetConfig, Guest: guest.ID{Kind: kind}, Delete: []string{fact.field}}), kind, fact.field) {
				t.Errorf("an op of ours that deletes %s does not explain that it is gone", fact.field)
			}
		}
		if v, why := Judge(e, Of(kind, conf), Continuity{Known: true}, nil); v != Same {
			t.Errorf("%s %q", v, why)
		}
	})
}

// TestOrderOfKeysIsIrrelevant: a map has none, but Go walks it in a new one
// each time.
func TestOrderOfKeysIsIrrelevant(t *testing.T) {
	conf := maps.Clone(vm)
	for i := range 30 {
		conf[fmt.Sprintf("net%d", i)] = fmt.Sprintf("virtio=BC:24:11:00:00:%02X", i)
		conf[fmt.Sprintf("scsi%d", i)] = fmt.Sprintf("lvm:vm-1-disk-%d", i)
	}
	other := edit(conf, "net3", "", "net9", "", "scsi4", "", "scsi5", "")
	_, first := Judge(Of(guest.QEMU, conf), Of(guest.QEMU, other), unbroken, nil)
	if len(first) != 4 {
		t.Fatalf("%q", first)
	}
	for range 50 {
		v, why := Judge(Of(guest.QEMU, maps.Clone(conf)), Of(guest.QEMU, maps.Clone(other)), unbroken, nil)
		if v != Changed || !slices.Equal(why, first) {
			t.Fatalf("%s %q, before %q", v, why, first)
		}
	}
}

// TestJudgeKeepsItsArguments: they are values, and the caller's.
func TestJudgeKeepsItsArguments(t *testing.T) {
	gone, doubts := make([]string, 1, 9), make([]string, 1, 9)
	c := Continuity{Known: true, Gone: gone, Doubts: doubts}
	known := Of(guest.QEMU, vm)
	Judge(known, Of(guest.QEMU, edit(vm, "net0", "")), c, nil)
	Judge(known, Evidence{}, c, nil)
	c.Join(c)
	if gone[:2][1] != "" || doubts[:2][1] != "" || !known.Equal(Of(guest.QEMU, vm)) {
		t.Error("an argument was written to")
	}
}
