// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// manyGuests is a node with n guests, every tenth a virtual machine.
func manyGuests(tb testing.TB, n int) *Sim {
	tb.Helper()
	specs := make([]GuestSpec, n)
	for i := range specs {
		id := 100 + i
		specs[i] = GuestSpec{Kind: guest.LXC, VMID: id, Running: i%2 == 0, Config: map[string]string{
			"hostname": fmt.Sprintf("ct%d", id), "memory": "512", "swap": "0", "cores": "2", "ostype": "debian", "arch": "amd64",
			"unprivileged": "1", "tags": "a;b", "rootfs": fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=8G", id, id),
			"net0": fmt.Sprintf("name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:%02X:%02X,ip=dhcp,type=veth", i>>8&255, i&255),
		}}
		if i%10 == 9 {
			specs[i] = GuestSpec{Kind: guest.QEMU, VMID: id, Running: i%2 == 0, Config: map[string]string{
				"name": fmt.Sprintf("vm%d", id), "memory": "1024", "cores": "1", "scsi0": fmt.Sprintf("local:%d/vm-%d-disk-0.raw,size=8G", id, id),
			}}
		}
	}
	sim, err := New(Options{
		Guests: specs, Seed: 1, Users: []User{{ID: "agent@pve", Tokens: []Token{{ID: "t", Secret: "s"}}}},
		ACL: []Grant{{Path: "/", Who: "agent@pve", Role: "PVEAdmin"}, {Path: "/", Who: "agent@pve!t", Role: "PVEAdmin"}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(sim.Close)
	return sim
}

func scaleCall(tb testing.TB, sim *Sim, method, path, body string) {
	tb.Helper()
	req := httptest.NewRequest(method, "/api2/json"+path, strings.NewReader(body))
	req.Header.Set("Authorization", "PVEAPIToken=agent@pve!t=s")
	if body != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	w := discard{header: http.Header{}}
	sim.ServeHTTP(&w, req)
	if w.code != http.StatusOK {
		tb.Fatalf("%s %s: %d", method, path, w.code)
	}
}

// discard is a client that reads the body and forgets it.
type discard struct {
	header http.Header
	code   int
}

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) WriteHeader(code int)        { w.code = code }
func (w *discard) Write(p []byte) (int, error) { return len(p), nil }

var scaleCalls = []struct{ name, method, path, body string }{
	{"list", "GET", "/nodes/pve1/lxc", ""},
	{"resources", "GET", "/cluster/resources?type=vm", ""},
	{"config", "GET", "/nodes/pve1/lxc/101/config", ""},
	{"put", "PUT", "/nodes/pve1/lxc/101/config", "description=x"},
}

// BenchmarkGuests measures calls on a node with 20,000 guests, and says how
// much memory the node takes.
func BenchmarkGuests(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	sim := manyGuests(b, 20000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	for _, c := range scaleCalls {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			scaleCall(b, sim, c.method, c.path, c.body)
			began := cpuTime(b)
			b.ResetTimer()
			for i := range b.N {
				body := c.body
				if body != "" {
					body += fmt.Sprint(i)
				}
				scaleCall(b, sim, c.method, c.path, body)
			}
			b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/20000, "heap-B/guest")
		})
	}
}

// cpuTime is what the process has used so far.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestManyGuests keeps the cost of calls about one guest independent of how
// many there are, and that of the list within a few allocations a guest.
func TestManyGuests(t *testing.T) {
	small, large := manyGuests(t, 20), manyGuests(t, 4000)
	for _, c := range scaleCalls {
		per := func(sim *Sim) float64 {
			scaleCall(t, sim, c.method, c.path, c.body) // what is kept encoded
			return testing.AllocsPerRun(3, func() { scaleCall(t, sim, c.method, c.path, c.body) })
		}
		few, many := per(small), per(large)
		limit := 2*few + 200
		if c.name == "resources" {
			limit += 4 * 4000
		}
		if many > limit {
			t.Errorf("%s: %.0f allocations with 4000 guests, %.0f with 20", c.name, many, few)
		}
	}
}
