// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hooktable

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// setup is what a row's name or its neighbours say and its fields do not.
type setup struct {
	acts   []Act // in place of the lost ones
	conf   map[string]string
	times  pvetest.Times
	absent bool // the script is missing
	plain  bool // the script is not executable
	// other scripts were used that told no phases
	untold bool
	// killed is the phase whose script was killed before it told
	killed guest.Phase
	drop   bool              // acts stand for all that was done
	loose  string            // why answers are not compared
	script map[string]string // what such a script prints or does, by phase
}

var setups = map[string]setup{
	"pre-start sleeps 6: GET status": {
		acts: []Act{{API: "POST /nodes/N/lxc/101/status/start"}}, drop: false,
		loose: "a config write and a start wait for one lock; who gets it is chance (8: the write, 9: the start)",
	},
	"pvedaemon restarted":                  {acts: []Act{{API: "POST /nodes/N/lxc/101/status/start"}}, killed: guest.PreStart},
	"abort start task":                     {acts: []Act{{API: "POST /nodes/N/lxc/101/status/start"}}, killed: guest.PreStart},
	"overruleShutdown":                     {killed: guest.PreStop},
	"shutdown timeout, guest ignores":      {times: pvetest.Times{NoShutdown: true}},
	"shutdown timeout=3 forceStop=1 (froz": {times: pvetest.Times{NoShutdown: true}},
	"shutdown timeout (frozen: suspend)":   {acts: []Act{{API: "POST /nodes/N/qemu/200/status/suspend"}}},
	"shutdown timeout=3 forceStop=1":       {acts: []Act{{API: "POST /nodes/N/qemu/200/status/suspend"}}},
	"hook file missing":                    {absent: true},
	"hook not executable":                  {plain: true},
	"hook with bad interpreter":            {untold: true, script: map[string]string{"pre-start": "noexec"}},
	"hook prints odd output":               {untold: true, script: map[string]string{"post-start": "print odd"}},
	"post-start prints last line without":  {untold: true, script: map[string]string{"post-start": "print last line without newline"}},
	"pre-start without newline":            {untold: true, script: map[string]string{"pre-start": "print pre-start line without newline", "post-start": "print done\n"}},
	"hook prints utf8":                     {untold: true, script: map[string]string{"pre-start": "print TASK ERROR: fake\n", "post-start": "print TASK ERROR: fake\n"}},
	"hook exits 75":                        {untold: true, script: map[string]string{"pre-start": "exit 75"}},
	"hook leaves background":               {untold: true, script: map[string]string{"pre-start": "sleep 8"}},
	"hook leaves setsid":                   {untold: true},
	"start again right after":              {untold: true, script: map[string]string{"pre-start": "sleep 8"}},
	"[no hookscript]":                      {conf: map[string]string{"hookscript": ""}},
	"start fails after pre-start (bind":    {times: pvetest.Times{NoStart: true}},
	"start fails after pre-start (missing": {conf: map[string]string{"net1": "virtio=BC:24:11:00:00:77,bridge=vmbr77"}},
	"startall":                             {conf: map[string]string{"onboot": "1"}},
	"entrypoint exits at once":             {times: pvetest.Times{Lives: time.Millisecond}},
	"entrypoint sleep 3":                   {times: pvetest.Times{Lives: 3 * time.Second}},
	"reboot with lock backup":              {conf: map[string]string{"lock": "backup"}},
	"race: poweroff inside":                {acts: []Act{{Cmd: "vm race"}}, drop: true},
	"hook dies from signal 9":              {untold: true, script: map[string]string{"pre-start": "signal 9"}},
	"race start-right-after":               {acts: []Act{{Cmd: "poweroff"}}},
}

// setup joins what the parts of the row's name say.
func (r *Row) setup() (out setup) {
	best := 0
	for _, k := range slices.Sorted(maps.Keys(setups)) {
		if strings.Contains(r.Name, k) && len(k) > best && (len(k) > len("[no hookscript]") || !strings.Contains(r.Name, "race")) {
			out, best = setups[k], len(k)
		}
	}
	if strings.Contains(r.Name, "[no hookscript]") {
		out.conf = map[string]string{"hookscript": ""}
	}
	return out
}

// excepted are rows the double does not match on purpose.
var excepted = map[string]string{
	"shutdown timeout=3 forceStop=1 (frozen guest)":            "under the laboratory's cgroup v1 a frozen container cannot be killed; a guest of the double is deaf, not frozen",
	"suspend to disk (hibernate)":                              "the laboratory's QEMU cannot save its state (the row says so itself)",
	"race start-right-after-poweroff [post-stop sleeps 12] #0": "the recorder failed and looked before the hook, which writes its line when it ends, had ended",
	"vzdump stop mode of a running VM":                         "the laboratory's QEMU has no PVE backup (the row says so itself)",
}
