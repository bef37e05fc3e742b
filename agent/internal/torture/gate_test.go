// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package torture

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

const (
	template   = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst"
	quarantine = 10 * time.Minute
	signer     = "alice@example.com"
)

// keyDir is removed at the end, "" if there is none.
var keyDir string

// key is the directory of the one key that may sign, made by the real ssh-keygen.
var key = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "torture-key")
	if err != nil {
		return "", err
	}
	keyDir = dir
	return dir, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", filepath.Join(dir, "key")).Run()
})

// needKey skips what has to be signed where nothing can be.
func needKey(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip(err)
	}
	if _, err := key(); err != nil {
		t.Fatal(err)
	}
}

func keys() (*gate.Signers, *gate.Revoked, error) {
	dir, err := key()
	if err != nil {
		return nil, nil, err
	}
	pub, err := os.ReadFile(filepath.Join(dir, "key.pub"))
	if err != nil {
		return nil, nil, err
	}
	s, err := gate.ParseSigners("allowed_signers", []byte(signer+" "+string(pub)), time.UTC)
	if err != nil {
		return nil, nil, err
	}
	r, err := gate.ParseRevoked("revoked_keys", nil)
	return s, r, err
}

func sign(request string) (string, error) {
	dir, err := key()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("ssh-keygen", "-Y", "sign", "-q", "-n", gate.ApprovalNamespace, "-f", filepath.Join(dir, "key"))
	cmd.Stdin = strings.NewReader(request)
	out, err := cmd.Output()
	return string(out), err
}

// begin has the agent told what the job is, as far as it does not know yet.
func (j job) begin(w *world) {
	if err := w.desire(j.document()); err != nil || j.what != "destroy" {
		return // a crash
	}
	for _, o := range w.agent.led.OpsOf(101) {
		if o.Kind == plugin.Destroy && o.State != op.Awaiting {
			return
		}
	}
	w.order(j)
}

// takes is how long a job takes with everything that may come between.
func (j job) takes() time.Duration {
	if j.what == "destroy" {
		return quarantine + 20*time.Minute
	}
	return 10 * time.Minute
}

// order asks for the guest's destruction and approves it, unless the agent dies of it.
func (w *world) order(j job) {
	a := w.agent
	for range 10 {
		if a.gone() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := a.destroyOnce(ctx)
		cancel()
		if err == nil {
			return
		}
		time.Sleep(5 * time.Second)
	}
}

func (a *agent) destroyOnce(ctx context.Context) error {
	id := ""
	for _, o := range a.led.OpsOf(101) {
		if o.Kind == plugin.Destroy && o.State == op.Awaiting {
			id = o.ID
		}
	}
	if id == "" {
		got, err := a.eng.Ask(ctx, engine.Order{
			Guest: 101, Action: plugin.Destroy, Params: map[string]string{"without_backup": "1"}, By: "operator (uid 0)",
		})
		if err != nil {
			return err
		}
		id = got.Ops[0].ID
	}
	o, _ := a.led.Op(id)
	if o.State != op.Awaiting {
		return nil
	}
	sig, err := sign(o.Request)
	if err != nil {
		return err
	}
	_, err = a.eng.Approve(ctx, id, o.Request, []ledger.Signature{{Principal: signer, Armored: sig}}, "operator (uid 0)")
	return err
}

// addStranger makes another guest of the VMID.
func (w *world) addStranger(k guest.Kind) {
	s := spec(k, 101, true)
	for key, v := range s.Config {
		s.Config[key] = strings.ReplaceAll(v, "BC:24:11:00:00:", "BC:24:11:AA:AA:")
	}
	if err := w.sim.Add(s); err != nil {
		w.t.Error(err)
	}
	w.stranger = true
}

// TestTortureIrreversible crashes the agent at each point of making a guest and of destroying one, and lets a successor
// go on. Nothing is made or destroyed twice, what is not known ends there, and nothing is stuck: who still wants it asks
// anew. A stranger that has the VMID since is left alone.
func TestTortureIrreversible(t *testing.T) {
	notUnderRace(t)
	needKey(t)
	atPoint, atCall := size(41, 29, 1), size(307, 211, 1)
	for _, j := range jobs("provision", "destroy") {
		t.Run(strings.ReplaceAll(j.String(), " ", "-"), func(t *testing.T) {
			t.Parallel()
			v, calls := crashOnce(t, j, crash{cut: "kill"}, broken{})
			row := Row{Scenario: "core/crash " + j.String(), Points: 1}
			turn := len(j.what)
			for _, c := range j.crashes(faults(calls, []string{"kill", "power-none", "power-all"})) {
				stride := atCall
				if c.point != "" {
					stride = atPoint
				}
				if turn++; turn%stride == 0 && !timeUp(t, &row, 0.45) {
					tryCrash(t, &v, &row, j, c)
				}
			}
			report(t, row, v)
		})
	}
}

// crashes are the named points, each of the three times that a destroy comes to it, and with the VMID used again.
func (j job) crashes(more []crash) (out []crash) {
	for _, p := range points {
		for nth := 1; nth <= 3; nth++ {
			for _, cut := range []string{"kill", "power-none", "power-all"} {
				out = append(out, crash{point: p, nth: nth, cut: cut})
				if j.what == "destroy" {
					out = append(out, crash{point: p, nth: nth, cut: cut, reuse: true})
				}
			}
		}
	}
	return append(out, more...)
}
