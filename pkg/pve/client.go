// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Client makes calls with one token. It is safe for concurrent use.
type Client struct {
	opts  Options
	base  *url.URL
	send  transports
	clock nodeClock
}

// New checks o and makes a Client. It does not connect.
func New(o Options) (*Client, error) {
	base, err := o.endpoint()
	if err != nil {
		return nil, err
	}
	if o.Token.IsZero() {
		return nil, fmt.Errorf("%w: none given", ErrToken)
	}
	o = o.withDefaults()
	conf, err := o.tlsConfig(base.Hostname())
	if err != nil {
		return nil, err
	}
	return &Client{opts: o, base: base, send: newTransports(o, conf)}, nil
}

// User is the full auth id of the client's token, as in the UPIDs of its tasks.
func (c *Client) User() string { return c.opts.Token.ID() }

// Close drops idle connections.
func (c *Client) Close() { c.send.closeIdle() }

// Retrying a read: once, and only if the failure came quickly. One that took
// long is a server under load, which a second call would only add to.
const (
	retryAfter  = 250 * time.Millisecond
	retryBefore = 5 * time.Second
)

// Call makes one API call; path is below /api2/json and its segments are not
// escaped. What follows "/content/" of a storage is one volume id. Params go into the query of GET and DELETE and into the form of
// POST and PUT. The result is the answer's "data". A GET that fails with
// ErrTransient is tried once more, nothing else ever is.
func (c *Client) Call(ctx context.Context, method, path string, params url.Values) (json.RawMessage, error) {
	env, err := c.call(ctx, method, path, params)
	return env.Data, err
}

func (c *Client) call(ctx context.Context, method, path string, params url.Values) (envelope, error) {
	start := time.Now()
	env, err := c.once(ctx, method, path, params)
	if method != http.MethodGet || !errors.Is(err, ErrTransient) || time.Since(start) > retryBefore {
		return env, err
	}
	select {
	case <-ctx.Done():
		return env, err
	case <-time.After(retryAfter):
	}
	return c.once(ctx, method, path, params)
}

// get reads path into the value that into points to.
func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	env, err := c.call(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(env.Data, into); err != nil {
		return c.garbled(path, err)
	}
	return nil
}

// getList reads a list and how many entries it would have without a limit.
func getList[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, int, error) {
	env, err := c.call(ctx, http.MethodGet, path, query)
	if err != nil {
		return nil, 0, err
	}
	out, err := list[T](env.Data)
	if err != nil {
		return nil, 0, c.garbled(path, err)
	}
	return out, int(env.Total), nil
}

// garbled is the error of a read whose answer makes no sense.
func (c *Client) garbled(path string, err error) error {
	return &Error{
		Kind: ErrOther, Method: http.MethodGet, Path: path, Status: http.StatusOK,
		Err: fmt.Errorf("answer not understood: %w", c.opts.Token.hide(err)),
	}
}

// once sends one request and reads its answer.
func (c *Client) once(ctx context.Context, method, path string, params url.Values) (envelope, error) {
	timeout := c.opts.WriteTimeout
	if method == http.MethodGet {
		timeout = c.opts.ReadTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var s sending
	req, err := c.request(s.trace(ctx), method, path, params)
	if err != nil {
		return envelope{}, &Error{Kind: ErrNotSent, Method: method, Path: path, Err: err}
	}
	res, err := c.send.of(method).RoundTrip(req)
	if err != nil {
		return envelope{}, c.noAnswer(ctx, &s, method, path, err)
	}
	defer func() { _ = res.Body.Close() }()
	c.clock.set(res.Header, time.Now())
	body, err := io.ReadAll(io.LimitReader(res.Body, c.opts.MaxAnswer+1))
	if err == nil && int64(len(body)) > c.opts.MaxAnswer {
		err = fmt.Errorf("answer is larger than %d bytes", c.opts.MaxAnswer)
	}
	return c.answer(method, path, res, body, err)
}

// request builds a request whose length is known, as PVE demands.
func (c *Client) request(ctx context.Context, method, path string, params url.Values) (*http.Request, error) {
	u := *c.base
	u.Path = "/api2/json" + path
	if escaped := escapedPath(path); escaped != "" {
		u.RawPath = "/api2/json" + escaped
	}
	var body io.Reader = http.NoBody
	form := method == http.MethodPost || method == http.MethodPut
	if form && len(params) > 0 {
		body = strings.NewReader(params.Encode())
	} else if !form {
		u.RawQuery = params.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if form && len(params) > 0 {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	req.Header.Set("Authorization", c.opts.Token.header())
	req.Header.Set("User-Agent", "felhom-agent")
	return req, nil
}

// noAnswer tells a call that never began from one whose fate is not known.
func (c *Client) noAnswer(ctx context.Context, s *sending, method, path string, err error) error {
	err = c.opts.Token.hide(err)
	// The transport's own error says less than the context's once that ended.
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	e := &Error{Kind: lost(method), Method: method, Path: path, Err: err}
	if s.notSent() {
		e.Kind = ErrNotSent
	}
	return e
}

// envelope is the frame of every JSON answer.
type envelope struct {
	Data    json.RawMessage `json:"data"`
	Total   number          `json:"total"`
	Message text            `json:"message"`
	Errors  paramErrors     `json:"errors"`
}

// errNoData: the answer is not PVE's, all of whose successes have "data", if
// only null.
var errNoData = errors.New("no data in it")

// answer turns an answer into its data or an *Error. broken says that the body
// could not be read to its end.
func (c *Client) answer(method, path string, res *http.Response, body []byte, broken error) (envelope, error) {
	e := &Error{Method: method, Path: path, Status: res.StatusCode, Reason: c.reason(res)}
	var env envelope
	if err := json.Unmarshal(body, &env); broken == nil {
		broken = err
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		if broken == nil && env.Data == nil {
			broken = errNoData
		}
		if broken == nil {
			return env, nil
		}
		// It was done or accepted, but what it led to is lost.
		e.Kind = lost(method)
		e.Err = fmt.Errorf("reading the answer: %w", c.opts.Token.hide(broken))
		return envelope{}, e
	}
	e.broken = broken != nil
	e.Message = c.opts.Token.redact(strings.TrimRight(string(env.Message), " \r\n"))
	e.Params = c.params(env.Errors)
	e.Kind = kindOf(method, e.Status, e.Text(), e.Params)
	e.Lock = lockOf(e.Text())
	return envelope{}, e
}

// params are PVE's words per parameter, nil if there are none.
func (c *Client) params(said paramErrors) map[string]string {
	if len(said) == 0 {
		return nil
	}
	out := make(map[string]string, len(said))
	for k, v := range said {
		out[c.opts.Token.redact(k)] = c.opts.Token.redact(v)
	}
	return out
}

// reason is the reason phrase of an answer's status line.
func (c *Client) reason(res *http.Response) string {
	_, reason, _ := strings.Cut(res.Status, " ")
	return c.opts.Token.redact(strings.TrimSpace(reason))
}

// nodeClock estimates the clock of the node that answers.
type nodeClock struct {
	ahead atomic.Int64 // of ours, in ns
	known atomic.Bool
}

// set takes the Date header of an answer that came at that time. PVE puts it in
// when it answers, in whole seconds: the estimate is up to a second early.
func (n *nodeClock) set(h http.Header, came time.Time) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	n.ahead.Store(int64(date.Sub(came)))
	n.known.Store(true)
}

// NodeTime is the present time by the clock of the node that answers, up to a
// second early, as far as its last answer tells; zero before the first one.
// UPIDs carry that clock's time.
func (c *Client) NodeTime() time.Time {
	if !c.clock.known.Load() {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(c.clock.ahead.Load()))
}
