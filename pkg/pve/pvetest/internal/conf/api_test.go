// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// apiWrite is one config write among the recorded API exchanges of a node,
// with the guest's file before and after it where that is known.
type apiWrite struct {
	Node, Name, Method, User string
	Kind                     guest.Kind
	VMID                     guest.VMID
	Type, Query, Body        string
	Status                   int
	Response                 string
	Running                  bool
	Before, Conf             string
	GetAfter                 map[string]any
}

// transport are the exchanges that never reach the config: they fail in HTTP,
// or at its door.
var transport = makeSet(`pve8/612-json-malformed pve8/613-json-nested pve8/615-dup-params pve8/616-big-body
	pve8/623-latin1-body pve8/745-ticket-put-nocsrf pve9/617-json-malformed pve9/618-json-nested
	pve9/620-dup-params pve9/621-big-body pve9/628-latin1-body pve9/745-ticket-put-nocsrf`)

// apiWrites are those whose config before is known; of the others neither the
// guest's file nor what another hand did to it in between was recorded.
func apiWrites(t testing.TB) []apiWrite {
	t.Helper()
	var out []apiWrite
	total := 0
	s := bufio.NewScanner(bytes.NewReader(testdata(t, "roundtrip/api-writes.jsonl.gz")))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		var w apiWrite
		if err := decode(s.Bytes(), &w); err != nil {
			t.Fatal(err)
		}
		total++
		if w.Before != "" && !transport[w.id()] {
			out = append(out, w)
		}
	}
	t.Logf("%d of %d config writes among the API exchanges have a known config before", len(out), total)
	return out
}

func (w *apiWrite) id() string { return w.Node + "/" + w.Name }

func (w *apiWrite) version() int {
	if w.Node == "pve9" {
		return 9
	}
	return 8
}

func (w *apiWrite) params(t testing.TB) map[string]string {
	t.Helper()
	if strings.HasPrefix(w.Type, "application/json") {
		var m map[string]any
		if err := decode([]byte(w.Body), &m); err != nil {
			t.Fatal(w.id(), err)
		}
		return asText(m)
	}
	out := make(map[string]string)
	for _, form := range []string{w.Body, w.Query} {
		v, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(w.id(), err)
		}
		for k := range v {
			out[k] = v.Get(k)
		}
	}
	return out
}

func (w *apiWrite) answer() reply {
	var b struct {
		Message string
		Errors  map[string]string
	}
	_ = json.Unmarshal([]byte(w.Response), &b)
	return reply{Status: w.Status, Message: strings.TrimSuffix(b.Message, "\n"), Errors: sortedErrors(b.Errors)}
}

func replayAPI(t testing.TB, w *apiWrite) replayed {
	t.Helper()
	g := parse(w.Kind, w.VMID, w.Before).SetRunning(w.Running)
	r := recorded{Kind: w.Kind, Put: w.params(t)}
	env := r.env(g)
	env.Host.CgroupV1, env.Host.CPUs = true, 2
	caller := Caller{User: w.User}
	if w.User == "agent@pve!full" {
		caller.Allowed = func(_, priv string) bool { return fullRole[priv] }
	}
	res := g.Put(Request{Version: w.version(), Caller: caller, Post: w.Method == "POST", Params: r.Put, Env: env})
	out := replayed{answer: true, config: true}
	if d := cmp.Diff(w.answer(), modelAnswer(&r, res)); d != "" {
		out.answer = false
		out.why += "ANSWER -recorded +model\n" + d
	}
	if w.Conf == "" {
		return out
	}
	got, want := maskGenerated(res.Guest.Text(), w.Conf)
	d := cmp.Diff(want, got)
	if w.GetAfter != nil {
		p := parse(w.Kind, w.VMID, w.Conf)
		d += cmp.Diff(asText(w.GetAfter), asText(p.View(false))) + typeDiff(w.GetAfter, p.View(false))
	}
	if d != "" {
		out.config = false
		out.why += "CONFIG -recorded +model\n" + d
	}
	return out
}
