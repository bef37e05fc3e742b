// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// overheard is the host's end of a connection in memory, with the secrets
// masked.
func overheard(t *testing.T, set plugin.Set, secrets map[string]plugin.Secret) *plugin.Client {
	t.Helper()
	lis, server := bufconn.Listen(1<<20), grpc.NewServer(plugin.ServerOptions()...)
	plugin.Register(server, set)
	conn, err := grpc.NewClient("passthrough:///plugin", append(plugin.DialOptions(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(lis) }) // ends with Stop
	t.Cleanup(func() { server.Stop(); _ = conn.Close(); wg.Wait() })
	return plugin.NewClient(newDiscreet(conn, secrets))
}

// babbler says s wherever it has words.
type babbler struct{ s string }

func (b babbler) err() error { return fmt.Errorf("%w: because of %s", plugin.ErrInvalid, b.s) }

func (b babbler) Configure(context.Context, plugin.Config) error { return b.err() }

func (b babbler) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: b.s, Version: b.s, Actions: []plugin.ActionKind{plugin.ActionKind(b.s)}}, nil
}

type babblingProvider struct{ babbler }

func (b babblingProvider) Watch(_ context.Context, emit func(plugin.Snapshot) error) error {
	_ = emit(plugin.Snapshot{Err: b.s})
	return b.err()
}

func (b babblingProvider) Report(context.Context, plugin.Report) error { return b.err() }

type babblingObserver struct{ babbler }

func (b babblingObserver) Watch(_ context.Context, emit func(plugin.Hint) error) error {
	_ = emit(plugin.Hint{Reason: b.s})
	return b.err()
}

func (b babblingObserver) List(context.Context) (plugin.NodeState, error) {
	return plugin.NodeState{Busy: b.s, Version: b.s}, nil
}

func (b babblingObserver) Guest(context.Context, plugin.GuestQuery) (plugin.Observation, error) {
	return plugin.Observation{
		ConfigError: b.s, TasksGap: b.s, Tasks: []plugin.Task{{Status: b.s}}, Inventory: &plugin.Inventory{Jobs: []string{b.s}, Missing: []string{b.s}},
	}, nil
}

type babblingExecutor struct{ babbler }

func (b babblingExecutor) outcome() plugin.Outcome {
	undo := startAction()
	undo.Reason = b.s
	return plugin.Outcome{Status: plugin.Failed, Message: b.s, Reason: b.s, RefusedKeys: map[string]string{"x": b.s}, Undo: &undo}
}

func (b babblingExecutor) Apply(_ context.Context, _ plugin.Action, _ string, emit func(plugin.Progress) error) (plugin.Outcome, error) {
	return b.outcome(), emit(plugin.Progress{Text: b.s})
}

func (b babblingExecutor) Probe(context.Context, plugin.ProbeQuery) (plugin.Verdict, error) {
	return plugin.Verdict{Finding: plugin.Settled, Message: b.s, Outcome: b.outcome()}, nil
}

// everything is all that a plugin answers, printed.
func everything(ctx context.Context, c *plugin.Client) string {
	var all []any
	put := func(v any, err error) { all = append(all, v, err) }
	_, err := c.Configure(ctx, plugin.Config{}, "1")
	put("", err)
	a := startAction()
	put(c.Executor().Describe(ctx))
	out, err := c.Executor().Apply(ctx, a, "", func(p plugin.Progress) error { put(p, nil); return nil })
	put(out, err)
	put(out.Undo.Reason, nil)
	v, err := c.Executor().Probe(ctx, plugin.ProbeQuery{Action: a})
	put(v, err)
	put(v.Outcome.Undo.Reason, nil)
	put("", c.Observer().Watch(ctx, func(h plugin.Hint) error { put(h, nil); return nil }))
	put(c.Observer().List(ctx))
	o, err := c.Observer().Guest(ctx, plugin.GuestQuery{VMID: 101})
	put(o, err)
	put(*o.Inventory, nil)
	put("", c.Provider().Watch(ctx, func(s plugin.Snapshot) error { put(s, nil); return nil }))
	put("", c.Provider().(plugin.Reporter).Report(ctx, plugin.Report{}))
	return fmt.Sprintf("%+v", all)
}

// TestNothingIsOverheard: there is no answer and no error with a secret in its
// words.
func TestNothingIsOverheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := babbler{s: "at hunter22 of it"}
		set := plugin.Set{
			Executor: babblingExecutor{b}, Observer: babblingObserver{b}, Provider: babblingProvider{b}, Configurer: b,
		}
		told := everything(t.Context(), overheard(t, set, map[string]plugin.Secret{"token": "hunter22"}))
		if said := everything(t.Context(), overheard(t, set, nil)); strings.Count(said, "hunter22") < 25 {
			t.Errorf("the test hears too little: %s", said)
		}
		if strings.Contains(told, "hunter22") {
			t.Errorf("%s", told)
		}
		if _, err := overheard(t, set, nil).Configure(t.Context(), plugin.Config{}, "1"); !errors.Is(err, plugin.ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
}

// data are the fields of text in a plugin's answers that are no words.
var data = []protoreflect.FullName{
	"felhom.plugin.v1.Action.delete", "felhom.plugin.v1.Action.digest", "felhom.plugin.v1.Action.kind", "felhom.plugin.v1.Action.node",
	"felhom.plugin.v1.Action.op_id", "felhom.plugin.v1.Action.params", "felhom.plugin.v1.Action.secret", "felhom.plugin.v1.Action.set",
	"felhom.plugin.v1.Config.values", "felhom.plugin.v1.ConfigureResponse.kinds", "felhom.plugin.v1.DescribeResponse.features",
	"felhom.plugin.v1.File.name", "felhom.plugin.v1.GuestBackup.verified", "felhom.plugin.v1.GuestBackup.volume",
	"felhom.plugin.v1.GuestID.kind", "felhom.plugin.v1.GuestSnapshot.name", "felhom.plugin.v1.GuestSnapshot.parent",
	"felhom.plugin.v1.GuestState.lock", "felhom.plugin.v1.GuestState.name", "felhom.plugin.v1.GuestState.run", "felhom.plugin.v1.GuestState.tags",
	"felhom.plugin.v1.NodeState.node", "felhom.plugin.v1.NodeState.privileges", "felhom.plugin.v1.Observation.digest",
	"felhom.plugin.v1.Observation.ha_state", "felhom.plugin.v1.Observation.pending", "felhom.plugin.v1.Observation.presence",
	"felhom.plugin.v1.Outcome.params", "felhom.plugin.v1.Outcome.status", "felhom.plugin.v1.ProbeResponse.finding",
	"felhom.plugin.v1.ProbeResponse.handle", "felhom.plugin.v1.Progress.handle", "felhom.plugin.v1.Snapshot.revision",
	"felhom.plugin.v1.Task.id", "felhom.plugin.v1.Task.type", "felhom.plugin.v1.Task.upid", "felhom.plugin.v1.Task.user",
}

// TestEveryFieldIsWordsOrData: who adds a field to the protocol says which.
func TestEveryFieldIsWordsOrData(t *testing.T) {
	t.Parallel()
	found := map[protoreflect.FullName]bool{}
	for _, f := range []protoreflect.FileDescriptor{
		pluginpb.File_felhom_plugin_v1_plugin_proto, pluginpb.File_felhom_plugin_v1_executor_proto,
		pluginpb.File_felhom_plugin_v1_observer_proto, pluginpb.File_felhom_plugin_v1_provider_proto,
	} {
		for i := range f.Services().Len() {
			for j := range f.Services().Get(i).Methods().Len() {
				texts(f.Services().Get(i).Methods().Get(j).Output(), found)
			}
		}
	}
	want := append(slices.Collect(maps.Keys(words)), data...)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("fields (-said +there are):\n%s", diff)
	}
}

// texts notes the fields of text in a message and those in it.
func texts(m protoreflect.MessageDescriptor, found map[protoreflect.FullName]bool) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch {
		case f.Kind() == protoreflect.StringKind, f.IsMap():
			found[f.FullName()] = true
		case f.Message() != nil && f.Message().FullName().Parent() == "felhom.plugin.v1":
			texts(f.Message(), found)
		}
	}
}

// TestSpellings: a secret is known in the forms that programs give it, also in
// the middle of something longer; what is too short for a secret is left.
func TestSpellings(t *testing.T) {
	t.Parallel()
	const secret = "pa\"ss\\w/r?d+é~22>>??"
	var texts []string
	for _, around := range []string{"%s", "a%s", "ab%sc", "user:%s", "%s and more"} {
		whole := fmt.Sprintf(around, secret)
		for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			texts = append(texts, e.EncodeToString([]byte(whole)))
		}
		texts = append(texts, whole, fmt.Sprintf("%q", whole), fmt.Sprintf("%+q", whole), fmt.Sprintf("%x", whole), fmt.Sprintf("%X", whole),
			url.QueryEscape(whole), url.PathEscape(whole), url.UserPassword("u", whole).String(), inJSON(whole, true), inJSON(whole, false))
	}
	r := redactor([]string{secret, "abc", "line one\n-----BEGIN KEY-----\nx\nline two\n"})
	for _, text := range texts {
		if got := r.Replace("<" + text + ">"); strings.Count(got, "[secret]") != 1 || len(got) > 50 {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, text := range []string{"abc", "want a file with -----BEGIN KEY-----", "x", "YWJj", "616263", "line"} {
		if got := r.Replace(text); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if got := r.Replace("line one, line two"); got != "[secret], [secret]" {
		t.Errorf("got %q", got)
	}
}

// TestSecretOfAnAction: what an action calls secret is masked in the answers to
// it, and only there.
func TestSecretOfAnAction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overheard(t, plugin.Set{Executor: babblingExecutor{babbler{s: "at hunter22 of it"}}}, nil)
		a := startAction()
		a.Set, a.Secret = map[string]string{"cipassword": "hunter22"}, []string{"cipassword"}
		var said []any
		out, err := c.Executor().Apply(t.Context(), a, "", func(p plugin.Progress) error { said = append(said, p); return nil })
		said = append(said, out, out.Undo.Reason, err)
		v, err := c.Executor().Probe(t.Context(), plugin.ProbeQuery{Action: a})
		if text := fmt.Sprintf("%+v", append(said, v, err)); strings.Contains(text, "hunter22") || strings.Count(text, "[secret]") < 6 {
			t.Errorf("%s", text)
		}
		if out, _ = c.Executor().Apply(t.Context(), startAction(), "", noEmit); !strings.Contains(out.Message, "hunter22") {
			t.Errorf("%q", out.Message)
		}
	})
}

// BenchmarkMaskedList is what it costs to look for secrets in a large node.
func BenchmarkMaskedList(b *testing.B) {
	n := &pluginpb.NodeState{Busy: "no"}
	for i := range 1000 {
		n.Guests = append(n.Guests, &pluginpb.GuestState{Id: &pluginpb.GuestID{Kind: string(guest.LXC), Vmid: uint32(100 + i)}, Name: "web", Run: "running", Tags: "a;b"})
	}
	r := redactor([]string{"felhom@pve!agent=01234567-89ab-cdef-0123-456789abcdef"})
	for b.Loop() {
		maskWords(r, n.ProtoReflect())
	}
}
