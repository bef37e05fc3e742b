// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// TestCreateQEMU makes each recorded creation of a virtual machine again and
// compares the answer and the config PVE wrote.
func TestCreateQEMU(t *testing.T) {
	n := 0
	for line := range bytes.Lines(testdata(t, "roundtrip/qemu-creates.jsonl.gz")) {
		var r struct {
			File, User, Status, Exitstatus string
			Params                         map[string]any
			Config                         map[string]any
		}
		if err := decode(line, &r); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.Status, "already exists") {
			continue // the VMID is the caller's business
		}
		n++
		params := asText(r.Params)
		vmid, _ := strconv.Atoi(params["vmid"])
		delete(params, "vmid")
		rec := recorded{Kind: guest.QEMU}
		req := Request{Version: 8, Caller: rec.caller(), Params: params, Env: rec.env(New(guest.QEMU, guest.VMID(vmid), nil))}
		res := CreateQEMU(req, guest.VMID(vmid), 1795424000)
		if got := short(res.Err); got != strings.TrimSuffix(r.Status, " OK") {
			t.Errorf("%s: answer %s, recorded %s", r.File, got, r.Status)
		}
		if res.Guest == nil {
			continue
		}
		want, got := maskCreated(r.Config), maskCreated(res.Guest.View(false))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-recorded +model)\n%s", r.File, d)
		}
	}
	if n == 0 {
		t.Error("no recorded creation")
	}
	t.Logf("%d creations", n)
}

// maskCreated hides what is generated, or told by the time.
func maskCreated(view map[string]any) map[string]string {
	m := asText(view)
	delete(m, "digest")
	for k, re := range map[string]string{
		"smbios1": `[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "vmgenid": `[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`,
		"meta": `ctime=[0-9]+`, "net0": `BC:24:11(:[0-9A-F]{2}){3}`, "net1": `BC:24:11(:[0-9A-F]{2}){3}`,
	} {
		if v, ok := m[k]; ok {
			m[k] = regexp.MustCompile(re).ReplaceAllString(v, "*")
		}
	}
	return m
}

// TestCreateParams holds what the schema of a creation refuses.
func TestCreateParams(t *testing.T) {
	t.Parallel()
	tmpl := map[string]string{"ostemplate": "local:vztmpl/x.tar.gz"}
	with := func(m map[string]string) map[string]string { return union(tmpl, m) }
	for _, tc := range []struct {
		name   string
		kind   guest.Kind
		params map[string]string
		want   map[string]string
	}{
		{"nothing", guest.LXC, nil, map[string]string{"ostemplate": "property is missing and it is not optional"}},
		{
			"two things wrong", guest.LXC, with(map[string]string{"memory": "x", "bogus": "1"}),
			map[string]string{"memory": "type check ('integer') failed - got 'x'", "bogus": notInSchema},
		},
		{"short password", guest.LXC, with(map[string]string{"password": "abcd"}), map[string]string{"password": "value must be at least 5 characters long"}},
		{"unique without restore", guest.LXC, with(map[string]string{"unique": "1"}), map[string]string{"restore": "missing property - 'unique' requires this property"}},
		{"a key that is internal", guest.QEMU, map[string]string{"meta": "ctime=1"}, map[string]string{"meta": notInSchema}},
		{"fine", guest.QEMU, map[string]string{"memory": "64", "scsi0": "local:1", "start": "1"}, nil},
	} {
		var got map[string]string
		if err := CheckParams(8, tc.kind, Create, tc.params); err != nil {
			got = err.Errors
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
	}
}

// TestCreateFails: what was allocated is freed again, and no config remains.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	req := root(9, nodeWith(nil), map[string]string{"scsi0": "local:1", "scsi1": "local:7/vm-7-disk-0.raw", "net0": "virtio"})
	res := CreateQEMU(req, 300, 0)
	if want := "unable to create VM 300 - volume 'local:7/vm-7-disk-0.raw' does not exist"; res.TaskErr != want || res.Guest != nil {
		t.Errorf("task %q, guest %v; want %q", res.TaskErr, res.Guest, want)
	}
	if left := lasting(res.Effects); len(left) > 0 || len(res.Effects) != 2 {
		t.Errorf("effects %v", res.Effects)
	}
}
