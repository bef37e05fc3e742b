// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/agent/internal/engine"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// fake answers what a test wants and notes what was asked.
type fake struct {
	led    *ledger.Ledger
	planFn func() (plan.Plan, error)
	calls  []string
	Gate   // the tests of its routes set it
}

func (f *fake) Status() any                                      { return map[string]string{"version": "1"} }
func (f *fake) Plan(context.Context) (plan.Plan, error)          { return f.planFn() }
func (f *fake) Ops() []op.Op                                     { return []op.Op{} }
func (f *fake) Since(n uint64) ([]ledger.Entry, <-chan struct{}) { return f.led.Since(n) }
func (f *fake) Reload(context.Context) error                     { return errors.New("agent.toml:3: no such key") }

func (f *fake) Metrics() []byte { return []byte("felhom_up_seconds 1\n") }

func (f *fake) note(what string, id guest.VMID, by string) error {
	f.calls = append(f.calls, what+" "+id.String()+" "+by)
	return nil
}

func (f *fake) Pause(_ context.Context, id guest.VMID, by string) error {
	return f.note("pause", id, by)
}

func (f *fake) Resume(_ context.Context, id guest.VMID, by string) error {
	return f.note("resume", id, by)
}

func (f *fake) View(id guest.VMID) (engine.View, error) {
	if id != 101 {
		return engine.View{}, engine.ErrNotManaged
	}
	return engine.View{ID: guest.ID{Kind: guest.LXC, VMID: id}, State: engine.StateConverged}, nil
}

func (f *fake) Apply(_ context.Context, q engine.Asked) (engine.Applied, error) {
	for _, id := range q.Guests {
		_ = f.note("apply", id, q.By)
	}
	return engine.Applied{Ops: []op.Op{}}, nil
}

func (f *fake) Selftest(_ context.Context, id guest.VMID, by string) (any, error) {
	return done, f.note("selftest", id, by)
}

// serve runs the API on a real socket; the peer is who the test says.
func serve(t *testing.T, f *fake, who string) *Client {
	t.Helper()
	if f.led == nil {
		f.led = ledger.New()
	}
	socket := filepath.Join(t.TempDir(), "c.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: Handler(f, func(*http.Request) (string, error) {
		if who == "" {
			return "", errors.New("user 1000 may not use the control socket")
		}
		return who, nil
	})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, srv, func() error { return srv.Serve(ln) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return NewClient(socket)
}

func TestUnknownPeerGetsNothing(t *testing.T) {
	f := &fake{}
	c := serve(t, f, "")
	var v any
	for name, err := range map[string]error{
		"status": c.Get(t.Context(), "/v1/status", &v), "pause": c.Post(t.Context(), "/v1/pause", Guests{}, &v),
	} {
		if err == nil || !strings.Contains(err.Error(), "may not use") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("carried out: %q", f.calls)
	}
}

func TestErrorsSayWhatWasWrong(t *testing.T) {
	f := &fake{planFn: func() (plan.Plan, error) { return plan.Plan{}, errors.New("Permission check failed (/, Sys.Audit)") }}
	c := serve(t, f, "operator")
	var v any
	for _, tt := range []struct {
		err  error
		want string
	}{
		{c.Get(t.Context(), "/v1/plan", &v), "Permission check failed (/, Sys.Audit)"},
		{c.Get(t.Context(), "/v1/guests/102", &v), "guest 102: no accepted document names this guest"},
		{c.Get(t.Context(), "/v1/guests/abc", &v), `"abc" is not a VMID`},
		{c.Get(t.Context(), "/v1/events?since=x", &v), "since"},
		{c.Get(t.Context(), "/v1/nothing", &v), "404"},
		{c.Post(t.Context(), "/v1/reload", Guests{}, &v), "agent.toml:3: no such key"},
		{c.Post(t.Context(), "/v1/pause", map[string]any{"guest": 101}, &v), `unknown field "guest"`},
		{c.Post(t.Context(), "/v1/selftest", Guests{}, &v), "exactly one guest"},
		{c.Post(t.Context(), "/v1/pause", map[string]any{"guests": strings.Repeat("x", 2*maxBody)}, &v), "too large"},
	} {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("error = %v, want something with %q", tt.err, tt.want)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("carried out: %q", f.calls)
	}
}

func TestCommandsNameTheirAsker(t *testing.T) {
	f := &fake{}
	c := serve(t, f, "operator (uid 0)")
	var v any
	for _, err := range []error{
		c.Post(t.Context(), "/v1/pause", Guests{Guests: []guest.VMID{101, 102}}, &v),
		c.Post(t.Context(), "/v1/resume", Guests{}, &v),
		c.Post(t.Context(), "/v1/apply", Guests{Guests: []guest.VMID{101}}, &v),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{"pause 101 operator (uid 0)", "pause 102 operator (uid 0)", "resume 0 operator (uid 0)", "apply 101 operator (uid 0)"}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestEventsFollow(t *testing.T) {
	f := &fake{led: ledger.New()}
	record := func(seq uint64) {
		r := ledger.Record{Type: ledger.TypePaused, Paused: &ledger.Paused{VMID: 101, On: true, By: "x"}}
		b, err := r.Encode()
		if err != nil {
			t.Error(err)
		}
		if err := f.led.Apply(journal.Entry{Seq: seq, Time: time.Unix(int64(seq), 0), Payload: b}); err != nil {
			t.Error(err)
		}
	}
	record(1)
	record(2)
	c := serve(t, f, "operator")
	var got []uint64
	err := c.Events(t.Context(), 1, true, func(e ledger.Entry) bool {
		got = append(got, e.Seq)
		if e.Seq == 2 {
			record(3) // comes while the answer is under way
		}
		return e.Seq < 3
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{2, 3}, got); diff != "" {
		t.Errorf("events after 1 (-want +got):\n%s", diff)
	}
}

func TestNobodyListens(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "none.sock"))
	var v any
	if err := c.Get(t.Context(), "/v1/status", &v); !errors.Is(err, ErrNotRunning) {
		t.Errorf("error = %v", err)
	}
}
