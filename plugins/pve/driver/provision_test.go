// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// making is a guest to be made from nothing.
func making(id guest.ID) plugin.Action {
	a := withParams(act(plugin.Provision, id.Kind, id.VMID), "how", "template")
	if id.Kind == guest.LXC {
		a.Params["source"] = template
		a.Set = map[string]string{"rootfs": "tank:2"}
	} else {
		a.Set = map[string]string{"scsi0": "tank:2"}
	}
	return a
}

// TestMadeByAnother: whoever has the VMID, however it is found out, is a
// stranger, and nothing is sent to it.
func TestMadeByAnother(t *testing.T) {
	for name, tt := range map[string]struct {
		there func(r *rig, id guest.ID) error
		says  string
	}{
		"of the same kind": {func(r *rig, id guest.ID) error { return r.sim.Add(twin(id)) }, "somebody else's"},
		"on another node": {func(r *rig, id guest.ID) error {
			return firstErr(r.sim.Add(twin(id)), r.sim.Move(int(id.VMID), "pve2"))
		}, "is on node pve2"},
		"of the other kind":  {func(r *rig, id guest.ID) error { return r.sim.Add(twin(otherKind(id))) }, "somebody else's"},
		"not to be seen":     {func(r *rig, id guest.ID) error { return nil }, "may not see"},
		"no quorum":          {func(r *rig, id guest.ID) error { return nil }, "no quorum"},
		"no right to see it": {func(r *rig, id guest.ID) error { r.sim.Deny("VM.Audit"); return nil }, "Permission check failed"},
	} {
		t.Run(name, func(t *testing.T) {
			eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
				a := making(free(id))
				if err := tt.there(r, a.Guest); err != nil {
					t.Fatal(err)
				}
				want := plugin.Refused
				switch name {
				case "not to be seen":
					r.answer("GET", "/cluster/nextid", 400, `{"data":null,"errors":{"vmid":"VM 151 already exists"}}`)
				case "no quorum":
					r.answer("GET", "/cluster/status", 200, `{"data":[{"type":"cluster","name":"c","quorate":0}]}`)
					want = plugin.Retry
				case "no right to see it":
					want = plugin.Retry
				}
				n := len(r.sim.Record())
				got := apply(t.Context(), r.Driver, a, "")
				if got.err != nil || got.Status != want || !strings.Contains(got.Message, tt.says) || !strings.Contains(got.Message, "nothing was sent") {
					t.Errorf("%+v", got)
				}
				if ch := r.changes(n); len(ch) > 0 {
					t.Errorf("changes: %q", ch)
				}
			})
		})
	}
}

// answer makes the answers to requests of this method whose path ends so be
// that.
func (r *rig) answer(method, path string, status int, body string) {
	f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
		if req.Method != method || !strings.HasSuffix(req.URL.Path, path) {
			return false
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
	r.twist.Store(&f)
}

func firstErr(errs ...error) error {
	i := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if i < 0 {
		return nil
	}
	return errs[i]
}

func otherKind(id guest.ID) guest.ID {
	if id.Kind == guest.LXC {
		return guest.ID{Kind: guest.QEMU, VMID: id.VMID}
	}
	return guest.ID{Kind: guest.LXC, VMID: id.VMID}
}

// TestRaceToMake: another makes the VMID between the proof and the sending:
// PVE refuses, and the stranger is left as it is.
func TestRaceToMake(t *testing.T) {
	for _, how := range []string{byTemplate, byBackup, byClone} {
		eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
			a := making(free(id))
			switch how {
			case byBackup:
				a.Set, a.Params = nil, map[string]string{"how": how, "source": r.backupVolume(id)}
			case byClone:
				a.Set, a.Params = nil, map[string]string{"how": how, "source": id.VMID.String()}
			}
			r.at("POST", "", func() {
				if err := r.sim.Add(twin(a.Guest)); err != nil {
					t.Error(err)
				}
			}, nil)
			n := len(r.sim.Record())
			got := apply(t.Context(), r.Driver, a, "")
			if got.err != nil || got.Status != plugin.Refused || !strings.Contains(got.Message, "already exists") || !strings.Contains(got.Message, "somebody else's") {
				t.Errorf("%s: %+v", how, got)
			}
			if ch := r.changes(n); len(ch) > 0 {
				t.Errorf("changes: %q", ch)
			}
			if there, protected := r.there(a.Guest); !there || !protected {
				t.Error("the stranger was touched")
			}
		})
	}
}

// TestRaceNoticedInTheTask: a virtual machine's clone finds a container of its
// VMID only once the task runs. It is no guest that was half made.
func TestRaceNoticedInTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		id := twoKinds[1]
		a := making(free(id))
		a.Set, a.Params = nil, map[string]string{"how": byClone, "source": id.VMID.String()}
		stranger := otherKind(a.Guest)
		r.at("POST", "/clone", func() {
			if err := r.sim.Add(twin(stranger)); err != nil {
				t.Error(err)
			}
		}, nil)
		got := apply(t.Context(), r.Driver, a, "")
		if len(got.handles) != 1 || got.err != nil || got.Status != plugin.Refused || got.Params != nil || !strings.Contains(got.Message, "somebody else's") {
			t.Errorf("%+v", got)
		}
		if there, _ := r.there(stranger); !there {
			t.Error("the stranger was touched")
		}
	})
}

// TestTwoMakers: two agents are told to make one VMID at once: one guest is
// made, and the other is refused, at the latest when it looks again.
func TestTwoMakers(t *testing.T) {
	for range 5 {
		eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
			other := r.driver("full", secretFull, Options{})
			results := make([]result, 2)
			n := len(r.sim.Record())
			var wg sync.WaitGroup
			for i, d := range []*Driver{r.Driver, other} {
				a := making(free(id))
				wg.Go(func() {
					results[i] = apply(t.Context(), d, a, "")
					for results[i].Status == plugin.Retry { // it saw the other's guest in the making
						time.Sleep(results[i].RetryAfter)
						a.Attempt++
						results[i] = apply(t.Context(), d, a, "")
					}
				})
			}
			wg.Wait()
			var got []string
			for _, res := range results {
				got = append(got, string(res.Status))
			}
			slices.Sort(got)
			if diff := cmp.Diff([]string{"done", "refused"}, got); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", results, diff)
			}
			if diff := cmp.Diff([]string{"create"}, r.changes(n)); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReserve: what would leave less than the reserve is refused, with figures.
func TestReserve(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		m, _ := methodOf(a.Kind)
		if !slices.Contains(m.params, plugin.ParamReserve) {
			return
		}
		store := "tank"
		if a.Kind == plugin.Backup {
			store = "local"
		}
		st, err := r.pve.Storage(t.Context(), "pve1", store)
		if err != nil {
			t.Fatal(err)
		}
		takes := map[string]int64{"create": 2, "restore to a new VMID": 1, "clone": 1, "grow": 2, "restore over": 1}[c.name] << 30
		if id.Kind == guest.QEMU && takes > 0 {
			takes = map[string]int64{"create": 2, "grow": 1}[c.name] << 30
			if takes == 0 {
				takes = 2 << 30
			}
		}
		a.Params[plugin.ParamReserve] = fmt.Sprint(st.Avail - takes + 1)
		n := len(r.sim.Record())
		got := apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Refused || !strings.Contains(got.Message, "storage "+store+" has ") || len(r.changes(n)) > 0 {
			t.Errorf("%+v, %q", got, r.changes(n))
		}
		a.Attempt++
		a.Params[plugin.ParamReserve] = fmt.Sprint(st.Avail - takes)
		r.must(a)
		c.one(t, r, a, n)
		after, err := r.pve.Storage(t.Context(), "pve1", store)
		if err != nil || after.Avail >= st.Avail && a.Kind != plugin.TakeSnapshot && a.Kind != plugin.GrowDisk && a.Kind != plugin.Restore {
			t.Errorf("the space has not shrunk: %d, %d, %v", st.Avail, after.Avail, err)
		}
	})
}

// TestHalfMade: a create whose worker is killed leaves a guest under a lock:
// that is said, and found again.
func TestHalfMade(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		a := withParams(act(plugin.Provision, id.Kind, id.VMID+50), "how", "backup", "source", r.backupVolume(id))
		var handle string
		go func() {
			time.Sleep(100 * time.Millisecond)
			r.sim.KillTasks()
		}()
		got := apply(t.Context(), r.Driver, a, "")
		if len(got.handles) == 1 {
			handle = got.handles[0]
		}
		if got.Status != plugin.Unknown || handle == "" {
			t.Fatalf("%+v", got)
		}
		v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Handle: handle})
		if err != nil || v.Finding != plugin.Settled || v.Outcome.Status != plugin.Failed {
			t.Fatalf("%+v, %v", v, err)
		}
		if lock, ok := v.Outcome.Params[ParamHalfMade]; !ok || lock != "create" {
			t.Errorf("%+v", v.Outcome)
		}
	})
}

// TestFailedMaking: what PVE cleans up is not left; what it does not is said.
func TestFailedMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		a := making(guest.ID{Kind: guest.LXC, VMID: 151})
		a.Params["source"] = "local:vztmpl/none.tar.zst"
		got := apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Failed || !strings.Contains(got.Message, "does not exist") || got.Params != nil {
			t.Errorf("%+v", got)
		}
		v := "local:backup/vzdump-qemu-900-2026_11_23-09_02_37.vma.zst"
		a = withParams(act(plugin.Provision, guest.QEMU, 251), "how", "backup", "source", v)
		got = apply(t.Context(), r.Driver, a, "")
		if _, left := got.Params[ParamHalfMade]; got.Status != plugin.Failed || !left {
			t.Errorf("%+v", got)
		}
	})
}

// TestSecretsOfMaking: a password is in no message.
func TestSecretsOfMaking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		a := making(guest.ID{Kind: guest.LXC, VMID: 151})
		a.Set["password"], a.Secret = "pw42", []string{"password"} // too short for PVE
		got := apply(t.Context(), r.Driver, a, "")
		if got.Status != plugin.Refused || got.RefusedKeys["password"] == "" || strings.Contains(fmt.Sprintf("%+v", got), "pw42") {
			t.Errorf("%+v", got)
		}
	})
}

// TestPool: the guest is put into it.
func TestPool(t *testing.T) {
	eachOf(t, func(t *testing.T, r *rig, id guest.ID) {
		r.sim.SetRole("Full", append(slices.Clone(fullRole), "Pool.Allocate"))
		if _, err := r.pve.Call(t.Context(), "POST", "/pools", map[string][]string{"poolid": {"web"}}); err != nil {
			t.Fatal(err)
		}
		a := making(free(id))
		a.Params["pool"] = "web"
		r.must(a)
		list, err := r.pve.Pool(t.Context(), "web")
		if err != nil || !slices.Equal(list, []guest.VMID{a.Guest.VMID}) {
			t.Errorf("%v, %v", list, err)
		}
	})
}
