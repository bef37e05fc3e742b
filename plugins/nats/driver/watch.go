// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/internal/carry"
)

// Watch implements plugin.Provider. The watch of the key says when to look;
// what is given to the core is what is read then, and at each relist.
func (p *Provider) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	p.mu.Lock()
	conf := p.conf
	p.mu.Unlock()
	if conf == nil {
		return fmt.Errorf("%w: not configured", plugin.ErrInvalid)
	}
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { p.follow(ctx, changed) })
	feed := &carry.Feed{Emit: emit}
	for ctx.Err() == nil {
		snap, err := p.read(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			feed.Bad(err)
			p.pause(ctx, carry.Backoff(feed.Failures(), conf.relist), changed)
		default:
			feed.Good(snap)
			p.pause(ctx, conf.relist, changed)
		}
	}
	return ctx.Err()
}

// pause returns after d, at a change, and when the connection is back.
func (p *Provider) pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changed:
	case <-p.back:
	}
}

// read reads the key.
func (p *Provider) read(ctx context.Context) (plugin.Snapshot, error) {
	conf, js, err := p.stream()
	if err != nil {
		return plugin.Snapshot{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	kv, err := js.KeyValue(ctx, conf.bucket)
	if err != nil {
		return plugin.Snapshot{}, fmt.Errorf("bucket %s: %w", conf.bucket, err)
	}
	return p.value(ctx, conf, kv)
}

// value is what the bucket has under the key.
func (p *Provider) value(ctx context.Context, conf *config, kv jetstream.KeyValue) (plugin.Snapshot, error) {
	entry, err := kv.Get(ctx, conf.key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return plugin.Snapshot{}, fmt.Errorf("bucket %s has no key %s; a set that manages nothing has an empty list of files", conf.bucket, conf.key)
	case err != nil:
		return plugin.Snapshot{}, fmt.Errorf("key %s of bucket %s: %w", conf.key, conf.bucket, err)
	}
	err = p.newest.take(entry.Revision(), func() (time.Time, uint64, error) { return standing(ctx, kv) })
	if err != nil {
		return plugin.Snapshot{}, fmt.Errorf("key %s of bucket %s: %w", conf.key, conf.bucket, err)
	}
	snap, err := carry.Decode(entry.Value())
	if err != nil {
		return snap, fmt.Errorf("key %s of bucket %s, revision %d: %w", conf.key, conf.bucket, entry.Revision(), err)
	}
	return snap, nil
}

// follow keeps a watch on the key until ctx ends, and signals each change. A
// watch that ends, whatever the reason, is begun again; each one begins with a
// signal for the value of that moment, so nothing is missed in between.
func (p *Provider) follow(ctx context.Context, changed chan<- struct{}) {
	for failures := 0; ctx.Err() == nil; {
		begun := time.Now()
		err := p.followOnce(ctx, changed)
		if failures++; time.Since(begun) > longest {
			failures = 1
		}
		p.log.Debug("watch ended", "error", err)
		carry.Sleep(ctx, carry.Backoff(failures, longest))
	}
}

func (p *Provider) followOnce(ctx context.Context, changed chan<- struct{}) error {
	conf, js, err := p.stream()
	if err != nil {
		return err
	}
	// The watch is bound to a context of its own: what it holds at the server
	// is given back with it.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kv, err := js.KeyValue(ctx, conf.bucket)
	if err != nil {
		return err
	}
	w, err := kv.Watch(ctx, conf.key, jetstream.MetaOnly())
	if err != nil {
		return err
	}
	defer func() { _ = w.Stop() }() // the server ends it as well when the connection does
	// A bucket that was deleted and made anew has another stream: a watch of
	// the old one stays silent, so a watch does not live for ever.
	end := time.NewTimer(10 * conf.relist)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case entry, ok := <-w.Updates():
			if !ok {
				return errors.New("the watch was closed")
			}
			if entry != nil { // else: these were those that there were before
				p.newest.heard(entry.Revision())
			}
			select {
			case changed <- struct{}{}:
			default: // one is waiting already
			}
		}
	}
}

// Report implements plugin.Reporter. The agent keeps what is to be told and
// tries again with growing waits.
func (p *Provider) Report(ctx context.Context, r plugin.Report) error {
	conf, js, err := p.stream()
	if err != nil {
		return err
	}
	if conf.subject == "" {
		return fmt.Errorf("%w: subject is \"-\": no reports are sent", plugin.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	if _, err := js.Publish(ctx, conf.subject, r.JSON, messageID(conf, r)...); err != nil {
		return fmt.Errorf("%w: report to %s: %w", reportKind(err), conf.subject, err)
	}
	return nil
}

// reportKind: what is too large for the server or the stream is so each time,
// and tried again for ever it would hold up all that comes after.
func reportKind(err error) error {
	var api *jetstream.APIError
	if errors.Is(err, nats.ErrMaxPayload) || errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum {
		return plugin.ErrInvalid
	}
	return plugin.ErrUnavailable
}

// messageID lets the stream drop a report that it has: one whose answer was
// lost is sent again.
func messageID(conf *config, r plugin.Report) []jetstream.PublishOpt {
	var b plugin.ReportBody
	if err := json.Unmarshal(r.JSON, &b); err != nil || len(b.Outcomes) == 0 {
		return nil
	}
	last := b.Outcomes[len(b.Outcomes)-1]
	return []jetstream.PublishOpt{jetstream.WithMsgID(fmt.Sprintf("%s %s-%s %d", conf.key, b.Outcomes[0].Op, last.Op, last.Seq))}
}
