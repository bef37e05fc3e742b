// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// TestVersions holds what one PVE version takes and the other does not.
func TestVersions(t *testing.T) {
	t.Parallel()
	ct, vm := benchGuest(guest.LXC), benchGuest(guest.QEMU)
	const ok = "200"
	for _, tc := range []struct {
		name       string
		g          *Guest
		params     map[string]string
		pve8, pve9 string // the answer
	}{
		{"entrypoint", ct, map[string]string{"entrypoint": "/bin/sh"}, "400 " + notInSchema, ok},
		{"env", ct, map[string]string{"env": "A=b\x00C=d"}, "400 " + notInSchema, ok},
		{
			"host-managed", ct,
			map[string]string{"net0": "name=eth0,bridge=vmbr0,host-managed=1"},
			"400 invalid format - format error\nnet0.host-managed: " + notInSchema + "\n", ok,
		},
		{
			"host-managed with SLAAC", ct,
			map[string]string{"net0": "name=eth0,bridge=vmbr0,host-managed=1,ip6=auto"},
			"400 invalid format - format error\nnet0.host-managed: " + notInSchema + "\n",
			"500 net0: SLAAC is not supported for host-managed network configuration.",
		},
		{
			"keepattrs", ct,
			map[string]string{"mp0": "/srv,mp=/x,keepattrs=1"},
			"400 invalid format - format error\nmp0.keepattrs: " + notInSchema + "\n", ok,
		},
		{
			"idmap that maps twice", ct,
			map[string]string{"mp0": "/srv,mp=/x,idmap=u:0:5:2;u:1:9:1"},
			"400 invalid format - format error\nmp0.idmap: " + notInSchema + "\n",
			"500 invalid map entry 'u 1 9 1': container uid 1 is also mapped by entry 'u 0 5 2'",
		},
		{"allow-ksm", vm, map[string]string{"allow-ksm": "0"}, "400 " + notInSchema, ok},
		{
			"agent yes", vm,
			map[string]string{"agent": "yes"},
			"400 invalid format - format error\nagent.enabled: type check ('boolean') failed - got 'yes'\n", ok,
		},
		{
			"agent freeze-fs", vm,
			map[string]string{"agent": "1,freeze-fs=0"},
			"400 invalid format - format error\nagent.freeze-fs: " + notInSchema + "\n", ok,
		},
		{
			"agent by two names", vm,
			map[string]string{"agent": "1,freeze-fs=0,guest-fsfreeze=1"},
			"400 invalid format - format error\nagent.freeze-fs: " + notInSchema + "\nagent.guest-fsfreeze: " + notInSchema + "\n",
			"400 invalid format - key 'freeze-fs' is already defined (via alias)\n",
		},
		{
			"geometry of a disk", vm,
			map[string]string{"scsi1": "local:1,cyls=1"},
			ok,
			"400 invalid format - format error\nscsi1.cyls: " + notInSchema + "\n",
		},
		{
			"CPU flag nested-virt", vm,
			map[string]string{"cpu": "host,flags=+nested-virt"},
			"400 invalid format - VM-specific CPU flags must be a subset of: pcid, spec-ctrl, ibpb, ssbd, virt-ssbd, amd-ssbd, amd-no-ssb, pdpe1gb, md-clear, hv-tlbflush, hv-evmcs, aes\n", ok,
		},
		{
			"newer processor", vm,
			map[string]string{"cpu": "EPYC-Turin"},
			"400 invalid format - Built-in cputype 'EPYC-Turin' is not defined (missing 'custom-' prefix?)\n", ok,
		},
		{
			"gateway without address", vm,
			map[string]string{"ipconfig0": "gw=10.0.0.1"},
			"400 invalid format - format error\nipconfig0.ip: missing property - 'ipconfig0.gw' requires this property\n",
			"400 invalid format - format error\nipconfig0.ip: missing property required by 'ipconfig0.gw'\n",
		},
		{
			"force without delete", vm,
			map[string]string{"force": "1"},
			"400 missing property - 'force' requires this property", "400 missing property required by 'force'",
		},
		{
			"aw-bits alone", vm,
			map[string]string{"machine": "q35,aw-bits=48"},
			"400 invalid format - format error\nmachine.aw-bits: " + notInSchema + "\n",
			"500 cannot set aw-bits if no vIOMMU is configured",
		},
	} {
		for version, want := range map[int]string{8: tc.pve8, 9: tc.pve9} {
			res := tc.g.Put(Request{Version: version, Caller: Caller{User: rootUser}, Params: tc.params, Env: benchEnv})
			if d := cmp.Diff(want, short(res.Err)); d != "" {
				t.Errorf("%s on PVE %d (-want +got)\n%s", tc.name, version, d)
			}
		}
	}
}

// short is an answer in one text: the status, and the only parameter's error
// or the message.
func short(err *Error) string {
	if err == nil {
		return "200"
	}
	text := err.Message
	for _, v := range err.Errors {
		text = v
	}
	return number(float64(err.Status)) + " " + text
}

func TestPinnedMachine(t *testing.T) {
	t.Parallel()
	for qemu, want := range map[string]string{
		"7.2.22": "pc-i440fx-7.2", "9.2.0": "pc-i440fx-9.2+pve1", "10.0.2": "pc-i440fx-10.0+pve1", "": "pc-i440fx-9.2+pve1",
	} {
		env := *benchEnv
		env.Host.QEMU = qemu
		res := benchGuest(guest.QEMU).Put(Request{Version: 8, Caller: Caller{User: rootUser}, Params: map[string]string{"ostype": "win11"}, Env: &env})
		if res.Err != nil {
			t.Fatal(res.Err)
		}
		if got := res.Guest.Current.Values["machine"]; got != want {
			t.Errorf("QEMU %q: machine %q, want %q", qemu, got, want)
		}
	}
}
