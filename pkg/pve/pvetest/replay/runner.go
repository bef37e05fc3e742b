// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// runner replays one recording against one Sim. It runs in a synctest
// bubble.
type runner struct {
	fix     *fixture
	sim     *pvetest.Sim
	pipe    *pvetest.Pipe
	cmp     *comparer
	secrets map[string]string // by full token id
	steps   map[string][]step

	lastUPID     string // of a request that is not recorded
	ticket, csrf string
}

// outcome is what became of one exchange.
type outcome struct {
	id     string
	diff   []string
	except string // the reason, if it is not matched on purpose
}

// report is what became of a recording.
type report struct {
	name          string
	outcomes      []outcome
	masked, total int
	why           map[string]int
	problems      []string // of the fixture
}

func (r *report) matched() int {
	n := 0
	for _, o := range r.outcomes {
		if len(o.diff) == 0 {
			n++
		}
	}
	return n
}

// replay puts a Sim into the fixture's state and sends it every exchange.
func replay(name string, fix *fixture, ex []exchange, cmp *comparer) (*report, error) {
	start := time.Unix(ex[0].Time, 0)
	opt, err := fix.options(start)
	if err != nil {
		return nil, err
	}
	sim, err := pvetest.New(opt)
	if err != nil {
		return nil, err
	}
	defer sim.Close()
	r := &runner{fix: fix, sim: sim, pipe: sim.Pipe(), cmp: cmp, secrets: map[string]string{}, steps: map[string][]step{}}
	defer r.pipe.Close()
	for _, u := range fix.User {
		for id, secret := range u.Tokens {
			r.secrets[u.ID+"!"+id] = secret
		}
	}
	for _, s := range fix.Step {
		r.steps[s.Before] = append(r.steps[s.Before], s)
	}
	rep := &report{name: name}
	for i := range ex {
		rep.problems = append(rep.problems, r.before(&ex[i])...)
		rep.outcomes = append(rep.outcomes, r.exchange(&ex[i]))
	}
	rep.masked, rep.total, rep.why = r.cmp.masked, r.cmp.total, r.cmp.why
	return rep, nil
}

// before performs what happened between two exchanges.
func (r *runner) before(e *exchange) []string {
	var problems []string
	for _, s := range r.steps[e.ID] {
		for _, order := range s.Do {
			if err := r.do(order); err != nil {
				problems = append(problems, fmt.Sprintf("step before %s: %s: %v", e.ID, order, err))
			}
		}
		for _, g := range s.Guest {
			if err := r.sim.Add(pvetest.GuestSpec{Kind: g.Kind, VMID: g.VMID, File: g.File, Running: g.Running}); err != nil {
				problems = append(problems, fmt.Sprintf("step before %s: %v", e.ID, err))
			}
		}
		if s.UPID != "" {
			if !plausible(s.UPID, r.lastUPID) {
				problems = append(problems, fmt.Sprintf("step before %s: task %q cannot be %s", e.ID, r.lastUPID, s.UPID))
			}
			r.cmp.sim[s.UPID] = r.lastUPID
		}
	}
	return problems
}

// exchange sends one request when it is due and compares the answer.
func (r *runner) exchange(e *exchange) outcome {
	due := e.at.Add(-time.Duration(e.Millis * float64(time.Millisecond)))
	if d := due.Sub(r.sim.Now()); d > 0 {
		time.Sleep(d)
	}
	o := outcome{id: e.ID, except: r.fix.exceptionFor(e.ID)}
	got, err := r.sendUntilDone(e)
	if err != nil {
		o.diff = []string{err.Error()}
		return o
	}
	r.keepTicket(got)
	o.diff = r.cmp.diff(e, got)
	return o
}

func (f *fixture) exceptionFor(id string) string {
	for _, x := range f.Except {
		if ok, err := path.Match(x.ID, id); err == nil && ok {
			return x.Why
		}
	}
	return ""
}

var runningRE = regexp.MustCompile(`"status":"running"`)

// sendUntilDone repeats the question about a task that has ended in the
// recording: the recorder asked until it had, and kept the last answer only.
func (r *runner) sendUntilDone(e *exchange) (answer, error) {
	got, err := r.send(e)
	for range 120 {
		if err != nil || !strings.Contains(e.URI, "/tasks/UPID") || !r.unfinished(e, got) {
			break
		}
		time.Sleep(250 * time.Millisecond)
		got, err = r.send(e)
	}
	return got, err
}

func (r *runner) unfinished(e *exchange, got answer) bool {
	if e.Method != http.MethodGet || e.Status != 200 || got.status != 200 {
		return false
	}
	if strings.Contains(e.URI, "/status") {
		return !runningRE.MatchString(e.RBody) && runningRE.MatchString(got.body)
	}
	return strings.Contains(e.RBody, `"t":"TASK `) && !strings.Contains(got.body, `"t":"TASK `)
}

// send makes one request over its own connection, as the recorder did.
func (r *runner) send(e *exchange) (answer, error) {
	conn, err := r.pipe.Dial(context.Background())
	if err != nil {
		return answer{}, fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = conn.Close() }()
	text := r.request(e)
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(conn, text) // the Sim may answer without reading all
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: e.Method})
	if err != nil {
		return answer{}, fmt.Errorf("no answer: %w", err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = conn.Close()
	<-written
	if err != nil {
		return answer{}, fmt.Errorf("answer cut off: %w", err)
	}
	return newAnswer(resp, body), nil
}

func newAnswer(resp *http.Response, body []byte) answer {
	a := answer{status: resp.StatusCode, header: map[string]string{}, body: string(body)}
	_, a.reason, _ = strings.Cut(resp.Status, " ")
	for k := range resp.Header {
		switch k {
		case "Date", "Expires", "Content-Length":
		default:
			a.header[k] = resp.Header.Get(k)
		}
	}
	if resp.Close {
		a.header["Connection"] = "close"
	}
	return a
}

var ticketRE = regexp.MustCompile(`"(ticket|CSRFPreventionToken)":"([^"]+)"`)

// keepTicket remembers the ticket of a login; the recordings hold stand-ins.
func (r *runner) keepTicket(a answer) {
	for _, m := range ticketRE.FindAllStringSubmatch(a.body, -1) {
		if m[1] == "ticket" {
			r.ticket = m[2]
		} else {
			r.csrf = m[2]
		}
	}
}

func (r *runner) header(name, v string) string {
	switch name {
	case "Cookie":
		return "PVEAuthCookie=" + url.QueryEscape(r.ticket)
	case "Csrfpreventiontoken", "CSRFPreventionToken":
		return r.csrf
	}
	return v
}

func (r *runner) request(e *exchange) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: pve\r\nConnection: close\r\n", e.Method, r.renameURI(e.URI))
	for k, v := range e.Header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, r.header(k, v))
	}
	body := r.cmp.rename(e.Body)
	if n := max(len(body), e.Length); n > 0 {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", n)
		body += strings.Repeat("x", n-len(body))
	} else if e.Method == http.MethodPost || e.Method == http.MethodPut {
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

var upidInURI = regexp.MustCompile(`UPID%3A[^/?&]*`)

// renameURI puts the Sim's task ids and generated values into a request.
func (r *runner) renameURI(uri string) string {
	uri = upidInURI.ReplaceAllStringFunc(uri, func(s string) string {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return s
		}
		return url.QueryEscape(r.cmp.rename(plain))
	})
	return r.cmp.rename(uri)
}
