// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// choices are lines of a container's table and, where there is one, another way
// to say the same in JSON.
var choices = [][2]string{
	{`run = "stopped"`, `"run": "stopped"`},
	{`stop_timeout = "90s"`, `"stop_timeout": "1m30s"`},
	{`on_manual_change = { run = "revert", memory = "hold", cores = "revert" }`, `"on_manual_change": {"memory": "hold", "run": "revert"}`},
	{`ignore = ["run", "net3", "cores"]`, `"ignore": ["cores", "run", "net3"]`},
	{`mode = "enforce"`, ``},
	{`stop = "shutdown"`, ``},
	{`cores = 0b100`, `"cores": 4`},
	{`memory = "1.5GiB"`, `"memory": "1536MiB"`},
	{`swap = "0MiB"`, `"swap": "0GiB"`},
	{`description = '''a "b" \c'''`, `"description": "a \"b\" \\c\n"`},
	{`tags = ["x", "a-b", "Y_1"]`, `"tags": ["Y_1", "x", "a-b"]`},
	{`onboot = false`, `"onboot": false`},
	{`startup = { up = "1m", order = 0 }`, `"startup": "up=60,0"`},
	{`hostname = "web.example.org"`, `"hostname": "web.example.org"`},
	{`net0 = { tag = 5, firewall = false, name = "eth0", bridge = "vmbr0" }`, `"net0": "bridge=vmbr0,name=eth0,firewall=0,tag=5"`},
	{`net3 = "name=eth3,bridge=vmbr0"`, `"net3": {"bridge": "vmbr0", "name": "eth3"}`},
	{`delete = ["nameserver", "mp7"]`, `"delete": ["mp7", "nameserver"]`},
	{`disk = { rootfs = "1TiB", mp1 = "512MiB" }`, `"disk": {"mp1": "0.5GiB", "rootfs": "1024GiB"}`},
	{`config = { cpulimit = "1.5", protection = true, cpuunits = 10 }`, `"config": {"cpuunits": "10", "protection": 1, "cpulimit": "1.5"}`},
	{`provision = { clone = 9000, storage = "zfs" }`, `"provision": {"storage": "zfs", "clone": 9000}`},
}

// TestParseProperty writes random guests once as TOML and once, in another
// order and other words, as JSON: the meaning is the same, is the same again
// after rendering, and differs from that of every other choice of lines.
func TestParseProperty(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	seen := map[string]string{}
	for range 150 {
		order := rnd.Perm(len(choices))[:rnd.IntN(len(choices)+1)]
		asTOML, asJSON := []string{`kind = "lxc"`}, []string{`"kind": "lxc"`}
		said := make([]byte, len(choices))
		for _, i := range order {
			asTOML = append([]string{choices[i][0]}, asTOML...)
			if choices[i][1] != "" {
				asJSON = append(asJSON, choices[i][1])
				said[i] = 1
			}
		}
		a := mustParse(t, "a.toml", "[guest.101]\n"+strings.Join(asTOML, "\n")+"\n")
		b := mustParse(t, "b.json", fmt.Sprintf(`{"guest": {"101": {%s}}}`, strings.Join(asJSON, ", ")))
		if d := Diff(a.Guests, b.Guests); len(d) > 0 {
			t.Fatalf("TOML and JSON differ:\n%s\n%s", asTOML, asJSON)
		}
		rev := a.Guests[guest.VMID(101)].Revision
		if was, ok := seen[rev]; ok && was != string(said) {
			t.Fatalf("same revision as another document:\n%s", asTOML)
		}
		seen[rev] = string(said)
		checkRender(t, a)
	}
}

// TestProblemsJSON is the form in which problems reach a program.
func TestProblemsJSON(t *testing.T) {
	t.Parallel()
	_, err := Parse(testOptions, files("a.toml", "[guest.101]\nkind = \"lxc\"\nmode = \"of\"\n"))
	data, jsonErr := json.Marshal(err)
	const want = `[{"file":"a.toml","line":3,"guest":101,"key":"mode","wrong":"\"of\" is not known","allowed":"want \"enforce\", \"observe\" or \"paused\""}]`
	if string(data) != want || jsonErr != nil {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}
