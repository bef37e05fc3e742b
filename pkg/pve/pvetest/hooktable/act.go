// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hooktable

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

func (x *Replay) do(ctx context.Context, a Act) {
	var err error
	switch {
	case a.API != "":
		err = x.api(ctx, a)
	case a.Cmd != "":
		err = x.command(ctx, a)
	}
	if err != nil {
		x.differ("%s%s: %v", a.API, a.Cmd, err)
	}
}

var pyDict = regexp.MustCompile(`'([^']*)': '([^']*)'`)

func (x *Replay) api(ctx context.Context, a Act) error {
	f := strings.SplitN(a.API, " ", 3)
	path := f[1]
	if method := f[0]; method == http.MethodDelete && strings.Contains(path, "/tasks/") {
		x.mu.Lock()
		path = "/nodes/N/tasks/" + url.PathEscape(x.upid)
		x.mu.Unlock()
	}
	form := url.Values{}
	for _, m := range pyDict.FindAllStringSubmatch(a.API, -1) {
		form.Set(m[1], strings.ReplaceAll(m[2], `\n`, "\n"))
	}
	status, data, err := x.call(f[0], path, form.Encode())
	if err != nil {
		return err
	}
	if want := a.Want; x.set.loose == "" && (want != "" && status != want || want == "" && !strings.HasPrefix(status, "200")) {
		x.differ("%s: want %q, got %q", a.API, want, status)
	}
	upid, _ := data.(string)
	x.mu.Lock()
	if x.upid == "" {
		x.upid = upid
	}
	x.mu.Unlock()
	x.taskEnd(ctx, a, upid)
	return nil
}

// script is a script's path in an error.
var script = regexp.MustCompile(`/var/lib/vz/snippets/\S+ `)

func (x *Replay) taskEnd(ctx context.Context, a Act, upid string) {
	if !strings.HasPrefix(upid, "UPID:") {
		return
	}
	_, err := x.sim.WaitTask(ctx, upid)
	got := "OK"
	if err != nil {
		got = err.Error()
	}
	if a.Exit != "" && script.ReplaceAllString(got, "script ") != script.ReplaceAllString(a.Exit, "script ") && !strings.Contains(a.Exit, "open3: exec of") {
		x.differ("%s: task: want %q, got %q", a.API, a.Exit, got)
	}
}

func (x *Replay) command(ctx context.Context, a Act) error {
	vmid, f := int(x.row.VMID()), strings.Fields(a.Cmd)
	switch {
	case a.Cmd == "race", a.Cmd == "vm race":
		return x.race(ctx, a)
	case strings.Contains(a.Cmd, "poweroff"), strings.HasSuffix(a.Cmd, "sendkey 200 p"), strings.HasPrefix(a.Cmd, "systemctl stop pve-container"):
		return x.sim.Poweroff(vmid)
	case strings.Contains(a.Cmd, "reboot") && f[1] == "exec", strings.HasSuffix(a.Cmd, "sendkey 200 r"):
		return x.sim.RebootInside(vmid)
	case strings.HasPrefix(a.Cmd, "kill -9"):
		return x.sim.Crash(vmid)
	case a.Cmd == "pgrep":
		return x.sim.KillMonitor(vmid)
	case a.Cmd == "systemctl restart pvedaemon":
		x.sim.KillTasks()
	case a.Cmd == "systemctl restart pve-cluster":
		x.sim.ResetCounters()
	case f[0] == "pct", f[0] == "qm":
		x.tool(ctx, f)
	}
	return nil
}

// tool is the node's command line. What it says was not recorded; what it did
// shows in the phases and the state.
func (x *Replay) tool(ctx context.Context, f []string) {
	op, vmid := x.sim.Operator(x.row.Kind), int(x.row.VMID())
	if f[1] == "set" {
		_ = op.Set(ctx, vmid, map[string]string{strings.TrimPrefix(f[3], "--"): f[4]})
		return
	}
	_, _ = op.Power(ctx, vmid, f[1])
}

// race starts a guest that powers itself off as soon as it reads as stopped.
func (x *Replay) race(ctx context.Context, a Act) error {
	path := fmt.Sprintf("/nodes/N/%s/%d/status/", x.row.Kind, x.row.VMID())
	a.API = "POST " + path + "start"
	if a.Cmd == "vm race" {
		if err := x.sim.Poweroff(int(x.row.VMID())); err != nil {
			return err
		}
	}
	for {
		_, data, err := x.call(http.MethodGet, path+"current", "")
		if err != nil {
			return err
		}
		if m, ok := data.(map[string]any); ok && m["status"] == "stopped" {
			return x.api(ctx, a)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
