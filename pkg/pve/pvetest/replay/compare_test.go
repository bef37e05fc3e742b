// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import "testing"

func TestComparerSeesWhatDiffers(t *testing.T) {
	t.Parallel()
	const conf = `{"data":{"net0":"name=eth0,hwaddr=BC:24:11:00:00:01","digest":"1111111111111111111111111111111111111111","cores":2}}`
	tests := []struct {
		name, uri, want, got string
		same                 bool
	}{
		{"key order", "/api2/json/x", `{"a":1,"b":2}`, `{"b":2,"a":1}`, true},
		{"number for text", "/api2/json/x", `{"a":1}`, `{"a":"1"}`, false},
		{"missing field", "/api2/json/x", `{"a":1}`, `{}`, false},
		{"further field", "/api2/json/x", `{"a":1}`, `{"a":1,"b":1}`, false},
		{"masked value", "/api2/json/nodes/n/lxc", `{"data":[{"cpu":0.5}]}`, `{"data":[{"cpu":0}]}`, true},
		{"masked value of another type", "/api2/json/nodes/n/lxc", `{"data":[{"cpu":0.5}]}`, `{"data":[{"cpu":"0"}]}`, false},
		{"order of a hash", "/api2/json/nodes/n/lxc", `{"data":[{"vmid":1},{"vmid":2}]}`, `{"data":[{"vmid":2},{"vmid":1}]}`, true},
		{"order that counts", "/api2/json/x", `{"data":[1,2]}`, `{"data":[2,1]}`, false},
		{
			"generated address and its digest", "/api2/json/x", conf,
			`{"data":{"net0":"name=eth0,hwaddr=BC:24:11:00:00:02","digest":"2222222222222222222222222222222222222222","cores":2}}`, true,
		},
		{
			"digest alone", "/api2/json/x", conf,
			`{"data":{"net0":"name=eth0,hwaddr=BC:24:11:00:00:01","digest":"2222222222222222222222222222222222222222","cores":2}}`, false,
		},
		{
			"order of complaints about a value", "/api2/json/nodes/n/tasks/u/log",
			`{"data":[{"n":1,"t":"x"},{"n":2,"t":"b: property is bad"},{"n":3,"t":"a: property is bad"}]}`,
			`{"data":[{"n":1,"t":"x"},{"n":2,"t":"a: property is bad"},{"n":3,"t":"b: property is bad"}]}`, true,
		},
		{
			"order of other lines", "/api2/json/nodes/n/tasks/u/log", `{"data":[{"n":1,"t":"b"},{"n":2,"t":"a"}]}`,
			`{"data":[{"n":1,"t":"a"},{"n":2,"t":"b"}]}`, false,
		},
		{"what a copy counted", "/api2/json/x", `{"data":"Number of files: 297 (reg: 7)"}`, `{"data":"Number of files: 2"}`, true},
		{"name of what it counted", "/api2/json/x", `{"data":"Number of files: 2"}`, `{"data":"Number of links: 2"}`, false},
		{
			"task of another type", "/api2/json/x", `{"data":"UPID:n:00000001:00000001:00000001:vzstart:1:u@pve:"}`,
			`{"data":"UPID:n:00000002:00000002:00000002:vzstop:1:u@pve:"}`, false,
		},
		{
			"task", "/api2/json/x", `{"data":"UPID:n:00000001:00000001:00000001:vzstart:1:u@pve:"}`,
			`{"data":"UPID:n:00000002:00000002:00000002:vzstart:1:u@pve:"}`, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newComparer().diff(&exchange{URI: tt.uri, Status: 200, Reason: "OK", RBody: tt.want}, answer{status: 200, reason: "OK", body: tt.got})
			if (len(d) == 0) != tt.same {
				t.Errorf("differences %v", d)
			}
		})
	}
}

func TestGeneratedValuesStandForEachOtherEverywhere(t *testing.T) {
	t.Parallel()
	c := newComparer()
	body := func(mac string) string { return `{"data":"hwaddr=` + mac + `"}` }
	say := func(want, got string) int {
		return len(c.diff(&exchange{Status: 200, Reason: "OK", RBody: body(want)}, answer{status: 200, reason: "OK", body: body(got)}))
	}
	if say("BC:24:11:00:00:01", "BC:24:11:AA:AA:AA") != 0 {
		t.Error("a first pair is refused")
	}
	if say("BC:24:11:00:00:01", "BC:24:11:BB:BB:BB") == 0 {
		t.Error("one recorded address stands for two")
	}
}

func TestStatusLineAndHeadersCount(t *testing.T) {
	t.Parallel()
	e := &exchange{Status: 500, Reason: "CT 101 not running", RHeader: map[string]string{"Pragma": "no-cache"}}
	if d := newComparer().diff(e, answer{status: 500, reason: "CT 101 not running ", header: map[string]string{"Pragma": "no-cache"}}); len(d) != 1 {
		t.Errorf("reason: %v", d)
	}
	if d := newComparer().diff(e, answer{status: 500, reason: "CT 101 not running"}); len(d) != 1 {
		t.Errorf("missing header: %v", d)
	}
	if d := newComparer().diff(e, answer{status: 500, reason: "CT 101 not running", header: map[string]string{"Pragma": "no-cache", "X": "y"}}); len(d) != 1 {
		t.Errorf("further header: %v", d)
	}
}
