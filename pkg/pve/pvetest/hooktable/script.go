// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hooktable

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// hook stands for the recorder's script: it writes its line when it ends, so
// a script that was killed left none.
func (x *Replay) hook(h pvetest.HookCall) error {
	p, begun := Phase{Phase: guest.Phase(h.Phase), Lock: "free", Task: taskType(h.UPID)}, time.Now()
	if h.Locked {
		p.Lock = "held"
	}
	dies := p.Phase == x.set.killed
	if x.opt.Tell != nil && !dies && !x.set.untold {
		x.opt.Tell(h)
	}
	err := x.behave(h)
	switch killed := h.Ctx.Err() != nil; {
	case killed != dies:
		x.differ("the script of %s was killed: %v, want %v", h.Phase, killed, dies)
		return err
	case killed, x.set.untold:
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	at, _ := slices.BinarySearchFunc(x.begun, begun, time.Time.Compare)
	x.begun, x.seen = slices.Insert(x.begun, at, begun), slices.Insert(x.seen, at, p)
	return err
}

// taskType is the type of the task with this UPID.
func taskType(upid string) string {
	f := strings.Split(upid, ":")
	if len(f) < 6 {
		return ""
	}
	return f[5]
}

func (x *Replay) behave(h pvetest.HookCall) error {
	what := x.row.Beh[h.Phase]
	if x.set.untold {
		what = x.set.script[h.Phase]
	}
	verb, arg, _ := strings.Cut(what, " ")
	switch verb {
	case "sleep":
		return sleep(h.Ctx, arg)
	case "exit":
		return errors.New("exit code " + arg)
	case "signal":
		return errors.New("got signal " + arg)
	case "print":
		_, _ = io.WriteString(h.Out, arg)
	case "noexec":
		return errors.New("failed to execute")
	case "set":
		k, v, _ := strings.Cut(arg, "=")
		if err := x.sim.Operator(h.Kind).Set(h.Ctx, h.VMID, map[string]string{k: v}); err != nil {
			return errors.New("exit code 4")
		}
	case "api":
		f := append(strings.Fields(arg), "")
		_, _, err := x.call(f[0], f[1], f[2])
		return err
	}
	return nil
}

// sleep takes so many seconds, or ends as a script does that is killed.
func sleep(ctx context.Context, seconds string) error {
	n, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(n) * time.Second):
		return nil
	case <-ctx.Done():
		return errors.New("got signal 15")
	}
}

// nodeInPath is where a recorded path names the laboratory's node.
var nodeInPath = regexp.MustCompile(`/nodes/pve\d`)

// call makes one request and returns its status line and data.
func (x *Replay) call(method, path, body string) (string, any, error) {
	target := "http://pve/api2/json" + nodeInPath.ReplaceAllString(path, "/nodes/N")
	if method == http.MethodDelete && body != "" {
		target, body = target+"?"+body, ""
	}
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return "", nil, err
	}
	cred := "agent@pve!full=s"
	if strings.HasSuffix(path, "all") {
		cred = "root@pam!root=r"
	}
	req.Header.Set("Authorization", "PVEAPIToken="+cred)
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := x.pipe.Client().Do(req)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var env struct{ Data any }
	_ = json.NewDecoder(resp.Body).Decode(&env) // errors have bodies of their own
	return resp.Status, env.Data, nil
}
