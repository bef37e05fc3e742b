// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// TestParts: a node or a set of the largest size that is sensible is read, and
// a message that would become a hundred times as large is not.
func TestParts(t *testing.T) {
	t.Parallel()
	g := &pluginpb.GuestState{
		Id: &pluginpb.GuestID{Kind: "lxc", Vmid: 999_999_999}, Name: "web", Run: "running", Lock: "backup", Template: true, Tags: "a;b",
		Uptime: durationToPB(1),
	}
	entries := map[string]string{}
	for i := range maxParts {
		entries[string(rune('0'+i))] = ""
	}
	for name, tt := range map[string]struct {
		m    proto.Message
		good bool
	}{
		"ten thousand guests":  {&pluginpb.NodeState{Guests: slices.Repeat([]*pluginpb.GuestState{g}, 10_000)}, true},
		"a set":                {&pluginpb.Snapshot{Files: slices.Repeat([]*pluginpb.File{{Name: "a", Data: []byte("x"), Signatures: make([][]byte, 16)}}, 4096)}, true},
		"one large file":       {&pluginpb.Snapshot{Files: []*pluginpb.File{{Data: make([]byte, 1<<20)}}}, true},
		"a long text":          {&pluginpb.Hint{Reason: strings.Repeat("x", 1<<20)}, true},
		"many numbers":         {&pluginpb.Hint{Vmids: make([]uint32, maxParts)}, false},
		"many large numbers":   {&pluginpb.Hint{Vmids: slices.Repeat([]uint32{999_999_999}, maxParts/2)}, true},
		"empty guests":         {&pluginpb.NodeState{Guests: slices.Repeat([]*pluginpb.GuestState{{}}, maxParts+1)}, false},
		"empty texts":          {&pluginpb.DescribeResponse{Features: make([]string, maxParts+1)}, false},
		"entries, two parts a": {&pluginpb.Config{Values: entries}, false},
		"deep in it":           {&pluginpb.Observation{Inventory: &pluginpb.Inventory{Jobs: make([]string, maxParts)}}, false},
	} {
		b, err := proto.Marshal(tt.m)
		if err != nil {
			t.Fatal(err)
		}
		got := tt.m.ProtoReflect().New().Interface()
		err = frugal{}.Unmarshal(b, got)
		if tt.good && (err != nil || !proto.Equal(got, tt.m)) || !tt.good && (err == nil || !strings.Contains(err.Error(), "parts")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParts: no bytes are read that the count has not gone through, whatever
// they are, and it goes through all that can be read.
func FuzzParts(f *testing.F) {
	b, err := proto.Marshal(&pluginpb.Observation{Tasks: []*pluginpb.Task{{Upid: "x"}}, Config: &pluginpb.Config{Values: map[string]string{"a": "b"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &pluginpb.Observation{}
		md := m.ProtoReflect().Descriptor()
		used := len(b) + 1 - spare(md, b, len(b)+1)
		if used < 0 || used > len(b) {
			t.Errorf("%d parts in %d bytes", used, len(b))
		}
		if proto.Unmarshal(b, m) == nil && used < len(m.GetTasks())+len(m.GetConfig().GetValues()) {
			t.Errorf("%d parts, and there are %d tasks and %d values", used, len(m.GetTasks()), len(m.GetConfig().GetValues()))
		}
	})
}
