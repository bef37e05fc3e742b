// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func ok(body string) exchange { return exchange{Status: "200 OK", Body: body} }

func TestNumberTakesWhatPerlSends(t *testing.T) {
	for in, want := range map[string]number{
		`12`: 12, `"12"`: 12, `"0.50"`: 0.5, `""`: 0, `null`: 0, `true`: 1, `false`: 0, `3.8e-05`: 3.8e-05,
	} {
		var got number
		if err := json.Unmarshal([]byte(in), &got); err != nil || got != want {
			t.Errorf("%s: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{`"x"`, `{}`, `[1]`, `"NaN"`, `"1e999"`} {
		var got number
		if err := json.Unmarshal([]byte(in), &got); err == nil {
			t.Errorf("%s became %v", in, got)
		}
	}
}

func TestStatus(t *testing.T) {
	body := `{"data":{"vmid":"101","status":"running","name":"web","lock":null,"tags":"a;b","template":"","uptime":"12",
		"cpus":2,"maxmem":1073741824,"maxswap":null,"pid":null,"ha":{"managed":1,"state":"started"},"qmpstatus":"paused"}}`
	got, err := serveOne(t, ok(body)).Status(t.Context(), ref101)
	if err != nil {
		t.Fatal(err)
	}
	want := Guest{
		ID: ref101.ID, Name: "web", Run: guest.Running, Tags: "a;b", Uptime: 12 * time.Second, CPUs: 2, MaxMem: 1 << 30,
		QMP: "paused", HA: HA{Managed: true, State: "started"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got, err = serveOne(t, ok(`{"data":{"vmid":101,"status":"odd"}}`)).Status(t.Context(), ref101)
	if err != nil || got.Run != "" {
		t.Errorf("a status of unknown meaning became %q, %v", got.Run, err)
	}
}

func TestConfig(t *testing.T) {
	body := `{"data":{"digest":"d1","lock":"backup","parent":"before","memory":512,"cpulimit":"1.5","onboot":0,"tags":"",
		"lxc":[["lxc.cap.drop","x"],["lxc.a","y"]],"snaptime":1}}`
	got, err := serveOne(t, ok(body)).Config(t.Context(), ref101)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Values: guest.Config{"memory": "512", "cpulimit": "1.5", "onboot": "0", "tags": ""},
		Digest: "d1", Lock: "backup", Parent: "before", LXC: [][2]string{{"lxc.cap.drop", "x"}, {"lxc.a", "y"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, bad := range []string{`{"data":{"memory":512}}`, `{"data":null}`, `{"data":{"digest":"x","memory":{"a":1}}}`, `{"data":[]}`} {
		if got, err := serveOne(t, ok(bad)).Config(t.Context(), ref101); KindOf(err) != ErrOther {
			t.Errorf("%s became %+v, %v", bad, got, err)
		}
	}
}

func TestPending(t *testing.T) {
	body := `{"data":[{"key":"nameserver","pending":"10.0.0.53"},{"key":"cpulimit","value":"1.5","delete":1},{"key":"memory","value":512},
		{"key":"digest","value":"d1"},{"key":"cores","value":1,"pending":2},{"key":"mp0","value":"x","delete":2}]}`
	got, digest, err := serveOne(t, ok(body)).Pending(t.Context(), ref101)
	if err != nil || digest != "d1" {
		t.Fatal(digest, err)
	}
	want := []PendingChange{{"cores", "2", false}, {"cpulimit", "", true}, {"mp0", "", true}, {"nameserver", "10.0.0.53", false}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCluster(t *testing.T) {
	for body, want := range map[string]Cluster{
		`{"data":[{"type":"node","name":"pve1","local":1,"online":1}]}`: {Quorate: true, Nodes: []ClusterNode{{"pve1", true, true}}},
		`{"data":[{"type":"cluster","name":"c","quorate":0},{"type":"node","name":"pve1","local":1,"online":1},{"type":"node","name":"pve2","online":0}]}`: {
			Name: "c", Nodes: []ClusterNode{{"pve1", true, true}, {"pve2", false, false}},
		},
		`{"data":[{"type":"cluster","name":"c","quorate":"1"}]}`: {Name: "c", Quorate: true},
	} {
		got, err := serveOne(t, ok(body)).Cluster(t.Context())
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
}
