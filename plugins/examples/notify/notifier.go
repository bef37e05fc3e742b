// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// Kind is the action kind that this plugin serves. Params: "text".
const Kind plugin.ActionKind = "acme.notify"

// config is the table "config" of the manifest. The secret "token", if there
// is one, is sent to the webhook as a bearer token.
type config struct {
	// State is the file in which the plugin keeps what it has done.
	State string `json:"state"`
	// File gets a line for each notification. Either this or Webhook.
	File string `json:"file"`
	// Webhook gets a POST with a JSON object.
	Webhook string `json:"webhook"`
	// Deduplicates says that the receiver drops a repeated Idempotency-Key, so
	// that a delivery whose answer was lost may be sent again.
	Deduplicates bool `json:"deduplicates"`
}

// sink delivers notes.
type sink interface {
	// send delivers n. An error of kind plugin.ErrNotSent means that nothing
	// arrived; after any other error something may have.
	send(ctx context.Context, n note) error
	// sent says whether n was delivered, if that can be known.
	sent(n note) (yes, known bool, err error)
	// again says whether a delivery whose end is not known may be repeated.
	again() bool
}

// note is one notification.
type note struct {
	Key   string    `json:"key"` // the op id and the attempt
	Time  time.Time `json:"time"`
	Guest string    `json:"guest"`
	Text  string    `json:"text"`
}

type notifier struct {
	version string
	done    *record
	sink    sink
}

// Configure implements plugin.Configurer.
func (p *notifier) Configure(_ context.Context, c plugin.Config) error {
	var cfg config
	if err := c.Decode(&cfg); err != nil {
		return err
	}
	for name := range c.Secrets {
		if name != "token" {
			return fmt.Errorf("%w: secret %q is not known; known is token", plugin.ErrInvalid, name)
		}
	}
	if !filepath.IsAbs(cfg.State) {
		return fmt.Errorf("%w: config: state: want the absolute path of a file that the plugin may write", plugin.ErrInvalid)
	}
	if (cfg.File == "") == (cfg.Webhook == "") {
		return fmt.Errorf("%w: config: want either file or webhook", plugin.ErrInvalid)
	}
	p.done = &record{path: cfg.State}
	if cfg.File != "" {
		if !filepath.IsAbs(cfg.File) {
			return fmt.Errorf("%w: config: file: want an absolute path", plugin.ErrInvalid)
		}
		p.sink = fileSink{path: cfg.File}
		return nil
	}
	if u, err := url.Parse(cfg.Webhook); err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return fmt.Errorf("%w: config: webhook: want the URL of a receiver", plugin.ErrInvalid)
	}
	p.sink = newWebhook(cfg.Webhook, c.Secrets["token"], cfg.Deduplicates)
	return nil
}

// Describe implements plugin.Executor.
func (p *notifier) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "notify", Version: p.version, Actions: []plugin.ActionKind{Kind}}, nil
}

// Apply implements plugin.Executor. There is no handle: a delivery ends within
// the call.
func (p *notifier) Apply(ctx context.Context, a plugin.Action, _ string, _ func(plugin.Progress) error) (plugin.Outcome, error) {
	if err := check(a); err != nil {
		return plugin.Outcome{}, err
	}
	if err := ctx.Err(); err != nil {
		return plugin.Outcome{}, err
	}
	n := note{Key: keyOf(a), Time: time.Now().UTC().Truncate(time.Second), Guest: a.Guest.String(), Text: a.Params["text"]}
	if n.Text == "" {
		n.Text = a.Reason
	}
	out, err := p.deliver(ctx, n)
	if err != nil {
		return plugin.Outcome{}, fmt.Errorf("notify about %s: %w", a.Guest, err)
	}
	return out, nil
}

// deliver does the work under the record's lock: one delivery at a time, in
// all processes of this plugin.
func (p *notifier) deliver(ctx context.Context, n note) (plugin.Outcome, error) {
	unlock, err := p.done.lock(ctx)
	if err != nil {
		return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	defer unlock()
	state, err := p.settled(n)
	switch {
	case err != nil:
		return plugin.Outcome{}, err
	case state == done:
		return plugin.Outcome{Status: plugin.Done, Message: "it was delivered before"}, nil
	case state == begun && !p.sink.again():
		return plugin.Outcome{Status: plugin.Unknown, Message: "its delivery was begun before, and the end was lost"}, nil
	}
	if err := p.done.write(begun, n.Key); err != nil {
		return plugin.Outcome{}, fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	if err := p.sink.send(ctx, n); err != nil {
		return plugin.Outcome{}, p.failed(n, err)
	}
	if err := p.done.write(done, n.Key); err != nil {
		return plugin.Outcome{}, err // it was delivered, and a later process cannot know
	}
	return plugin.Outcome{Status: plugin.Done, Message: "delivered"}, nil
}

// settled says how far n has come, and writes down what it finds out. Only
// under the lock.
func (p *notifier) settled(n note) (progress, error) {
	state, err := p.done.read(n.Key)
	if err != nil || state != begun {
		return state, err
	}
	yes, known, err := p.sink.sent(n)
	switch {
	case err != nil || !known:
		return begun, err
	case yes:
		return done, p.done.write(done, n.Key)
	}
	return nothing, p.done.write(nothing, n.Key)
}

// failed takes the begin back when nothing arrived.
func (p *notifier) failed(n note, err error) error {
	if !isNotSent(err) {
		return err
	}
	if werr := p.done.write(nothing, n.Key); werr != nil {
		return fmt.Errorf("%w; and then: %w", err, werr)
	}
	return err
}

// Probe implements plugin.Executor.
func (p *notifier) Probe(ctx context.Context, q plugin.ProbeQuery) (plugin.Verdict, error) {
	if err := check(q.Action); err != nil {
		return plugin.Verdict{}, err
	}
	unlock, err := p.done.lock(ctx)
	if err != nil {
		return plugin.Verdict{}, fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
	}
	defer unlock()
	state, err := p.settled(note{Key: keyOf(q.Action)})
	switch {
	case err != nil:
		return plugin.Verdict{}, err
	case state == done:
		return plugin.Verdict{Finding: plugin.Settled, Outcome: plugin.Outcome{Status: plugin.Done}, Message: "the record says so"}, nil
	case state == begun:
		return plugin.Verdict{Finding: plugin.Unclear, Message: "its delivery was begun, and the end was lost"}, nil
	case time.Now().Before(q.Until):
		return plugin.Verdict{Finding: plugin.Unclear, Message: "it may still arrive"}, nil
	}
	return plugin.Verdict{Finding: plugin.NotSent, Message: "the record has no trace of it"}, nil
}

func check(a plugin.Action) error {
	switch {
	case a.Kind != Kind:
		return fmt.Errorf("%w: action %q", plugin.ErrUnsupported, a.Kind)
	case a.OpID == "" || a.Attempt < 1:
		return fmt.Errorf("%w: an action without an op id or attempt", plugin.ErrInvalid)
	case len(a.Set)+len(a.Delete) > 0:
		return fmt.Errorf("%w: %s takes no config keys", plugin.ErrInvalid, Kind)
	}
	for name := range a.Params {
		if name != "text" {
			return fmt.Errorf("%w: parameter %q is not known; known is text", plugin.ErrInvalid, name)
		}
	}
	return nil
}

func keyOf(a plugin.Action) string { return fmt.Sprintf("%s/%d", url.QueryEscape(a.OpID), a.Attempt) }
