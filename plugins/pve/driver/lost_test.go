// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// sentWith is the HTTP method that a kind is sent with.
func sentWith(a plugin.Action) string {
	switch a.Kind {
	case plugin.GrowDisk:
		return "PUT"
	case plugin.Destroy, plugin.DeleteSnapshot, plugin.DeleteBackup, plugin.DeleteVolume:
		return "DELETE"
	}
	return "POST"
}

// settle probes until there is a finding.
func (r *rig) settle(a plugin.Action, sent time.Time) plugin.Verdict {
	r.t.Helper()
	for {
		v := r.probe(a, sent)
		if v.Finding != plugin.Unclear || time.Since(sent) > 2*window {
			return v
		}
		time.Sleep(2 * time.Second)
	}
}

// TestLostReply: the answer to the sending is lost, and the effect comes at
// once or up to 45 seconds later: its task is found, and it happened once.
func TestLostReply(t *testing.T) {
	for _, delay := range []time.Duration{time.Second, 15 * time.Second, 45 * time.Second} {
		eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
			a := c.prepare(r, id)
			n := len(r.sim.Record())
			r.lose(sentWith(a), delay)
			sent := r.applyLost(a)
			v := r.settle(a, sent)
			if v.Finding != plugin.Found || !strings.Contains(v.Handle, ":"+c.task[id.Kind]+":") {
				t.Fatalf("after %v: %+v", delay, v)
			}
			if took := time.Since(sent); took < delay {
				t.Errorf("found after %v", took)
			}
			got := apply(t.Context(), r.driver("full", secretFull, Options{}), a, v.Handle)
			if got.err != nil || got.Status != plugin.Done {
				t.Errorf("%+v", got)
			}
			if a.Kind == plugin.Backup && !strings.HasPrefix(got.Params["volume"], "local:backup/vzdump-") {
				t.Errorf("volume %q", got.Params["volume"])
			}
			c.one(t, r, a, n)
		})
	}
}

// TestNeverArrived: the sending is lost on its way: it is proven unsent only
// once the window is over, and can then be sent.
func TestNeverArrived(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		n := len(r.sim.Record())
		var taken []string
		list, err := r.pve.Tasks(t.Context(), "pve1", pve.TaskQuery{})
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range list {
			taken = append(taken, task.UPID.String())
		}
		r.lose(sentWith(a), -1)
		sent := r.applyLost(a)
		r.twist.Store(nil)
		ask := func() plugin.Verdict {
			v, err := r.Probe(t.Context(), plugin.ProbeQuery{Action: a, Sent: sent, Until: sent.Add(window), Taken: taken})
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		time.Sleep(window - time.Second - time.Since(sent))
		if v := ask(); v.Finding != plugin.Unclear {
			t.Errorf("inside the window: %+v", v)
		}
		time.Sleep(3 * time.Second)
		if v := ask(); v.Finding != plugin.NotSent {
			t.Fatalf("after it: %+v", v)
		}
		a.Attempt++
		if a.Digest != "" {
			a = r.resting(a)
		}
		r.must(a)
		c.one(t, r, a, n)
	})
}

// TestClonesOfOneSource: the tasks of both have the source's VMID; what each
// became is told by its log, and not guessed.
func TestClonesOfOneSource(t *testing.T) {
	for _, id := range twoKinds {
		for _, version := range []string{"8.4.21", "9.2.11"} {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(o *pvetest.Options, do *Options) {
					onZFS(o, do)
					o.Version = version
					for i := range o.Guests { // files, so that the log says what is made
						for k, v := range o.Guests[i].Config {
							if diskKey.MatchString(k) {
								o.Guests[i].Config[k] = fmt.Sprintf("local:%d/vm-%d-disk-0.raw,%s", o.Guests[i].VMID, o.Guests[i].VMID, v[strings.Index(v, "size="):])
							}
						}
					}
				})
				r.history()
				clone := func(to guest.VMID) plugin.Action {
					return withParams(act(plugin.Provision, id.Kind, to), "how", "clone", "source", id.VMID.String())
				}
				lost, other := clone(id.VMID+50), clone(id.VMID+60)
				sent := time.Now()
				r.must(other)
				for range 40 {
					if v := r.probe(lost, sent); v.Finding == plugin.Found || v.Finding == plugin.Settled {
						t.Fatalf("%s, %s: the other's clone counts: %+v", version, id, v)
					}
					time.Sleep(2 * time.Second)
				}
				if v := r.probe(lost, sent); v.Finding != plugin.NotSent {
					t.Errorf("%s, %s: %+v", version, id, v)
				}
				if v := r.probe(other, sent); v.Finding != plugin.Found {
					t.Errorf("%s, %s: the other's own: %+v", version, id, v)
				}
			})
		}
	}
}

// TestCloneOfNoOne: a clone's log that names nothing leaves it open.
func TestCloneOfNoOne(t *testing.T) {
	a := withParams(act(plugin.Provision, guest.LXC, 150), "how", "clone", "source", "101")
	for _, tt := range []struct {
		log      []string
		is, sure bool
	}{
		{nil, false, false},
		{[]string{"create full clone of mountpoint rootfs (local:150/vm-150-disk-0.raw)"}, false, false},
		{[]string{"create full clone of drive scsi0 (local:101/vm-101-disk-0.raw)", "Formatting '/x/150/vm-150-disk-0.raw'"}, true, true},
		{[]string{`Logical volume "vm-151-disk-0" created.`}, false, true},
		{[]string{"creating a clone of container 101 with ID 150"}, true, true},
		{[]string{"creating a clone of container 101 with ID 1500"}, false, true},
	} {
		if is, sure := aboutClone(a, tt.log); is != tt.is || sure != tt.sure {
			t.Errorf("%q: %v, %v", tt.log, is, sure)
		}
	}
}

// TestDeletionsOnOneStorage: two volumes of one guest are deleted one after the
// other: neither's task counts as the other's.
func TestDeletionsOnOneStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, onZFS)
		r.history()
		id := twoKinds[0]
		first, second := r.backupVolume(id), ""
		time.Sleep(2 * time.Second)
		second = r.backupVolume(id)
		sent := time.Now()
		r.must(withParams(act(plugin.DeleteBackup, id.Kind, id.VMID), "volume", first))
		a := withParams(act(plugin.DeleteBackup, id.Kind, id.VMID), "volume", second)
		time.Sleep(window + 2*time.Second)
		if v := r.probe(a, sent); v.Finding != plugin.NotSent {
			t.Errorf("%+v", v)
		}
	})
}

// TestAnswerThatIsNoJSON: PVE took it, and what it answered makes no sense.
func TestAnswerThatIsNoJSON(t *testing.T) {
	eachLife(t, func(t *testing.T, r *rig, c lifeCase, id guest.ID) {
		a := c.prepare(r, id)
		method := sentWith(a)
		f := func(w http.ResponseWriter, req *http.Request, _ http.Handler) bool {
			if req.Method != method || strings.HasSuffix(req.URL.Path, "/config") {
				return false
			}
			_, _ = w.Write([]byte("<html>"))
			return true
		}
		r.twist.Store(&f)
		if got := apply(t.Context(), r.Driver, a, ""); got.err != nil || got.Status != plugin.Unknown {
			t.Errorf("%+v", got)
		}
	})
}
