// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package driver is the provider of a hub: a server that has the desired state
// of many hosts and is asked for it over HTTPS. HUB.md beside the plugin has
// the protocol.
//
// It guarantees that a hub which cannot be reached, answers something else, or
// has no set for this host is an error, never an empty set; that a redirect is
// not followed, so that the token goes to the hub alone; that an answer beyond
// the bounds is not read to its end; that a proxy is used only if the settings
// name one; and that neither token nor key is in an error or the log.
package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/internal/carry"
)

const (
	// longest is the longest wait after a failure.
	longest = 2 * time.Minute
	// least is the least time between two questions, whatever the hub does.
	least = time.Second
	// slack is how much longer than asked for a hub may take to answer.
	slack = 30 * time.Second
	// silence on a connection of HTTP/2 for so long, and it is asked whether it
	// lives; for as long again, and it is left. Else one that was lost without
	// a word would be used for each next question, too.
	silence = 12 * time.Second
	// maxWords bounds how much of a hub's own words is shown.
	maxWords = 300
)

// Settings is the configuration of the plugin. The secrets are token, sent as a
// bearer token, and client_key, the key of cert_file; at least one is needed.
type Settings struct {
	// URL is https://HOST[:PORT][/PATH].
	URL string `json:"url"`
	// Host is the name under which the hub knows this host; default the host's.
	Host string `json:"host"`
	// Wait is how long the hub may hold an answer back until there is news, as
	// a Go duration from 1s to 5m; default 50s.
	Wait string `json:"wait"`
	// Proxy is http://HOST:PORT; default none, whatever the environment says.
	Proxy string `json:"proxy"`
	carry.TLSSettings
}

// Provider asks one hub. Describe works at once, the rest after Configure.
type Provider struct {
	version string
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	client *client
	quiet  time.Time // no report before
}

// client is a configured connection to the hub.
type client struct {
	http  *http.Client
	base  string
	wait  time.Duration
	token plugin.Secret
}

// New makes a provider that is not configured.
func New(version string, log *slog.Logger) *Provider {
	return &Provider{version: version, log: log}
}

// Describe implements plugin.Provider.
func (p *Provider) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "hub", Version: p.version}, nil
}

// Configure implements plugin.Configurer.
func (p *Provider) Configure(_ context.Context, c plugin.Config) error {
	s := Settings{Wait: "50s"}
	if err := c.Decode(&s); err != nil {
		return err
	}
	for name := range c.Secrets {
		if name != "token" && name != "client_key" {
			return fmt.Errorf("%w: secrets: there is no use for %q; want token or client_key", plugin.ErrInvalid, name)
		}
	}
	cl, err := newClient(s, c.Secrets["token"], c.Secrets["client_key"])
	if err != nil {
		return fmt.Errorf("%w: config: %w", plugin.ErrInvalid, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.client = cl
	return nil
}

func newClient(s Settings, token, key plugin.Secret) (*client, error) {
	u, err := url.Parse(s.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("url: want https://HOST[:PORT][/PATH]")
	}
	host, err := carry.Host(s.Host)
	if err != nil {
		return nil, err
	}
	wait, err := time.ParseDuration(s.Wait)
	if err != nil || wait < time.Second || wait > 5*time.Minute {
		return nil, fmt.Errorf("wait: %q is not a duration from 1s to 5m", s.Wait)
	}
	if token.Reveal() == "" && key.Reveal() == "" {
		return nil, errors.New("secrets: one of token and client_key is needed")
	}
	tlsConfig, err := s.TLSSettings.Config(key)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig: tlsConfig, TLSHandshakeTimeout: slack, MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 4,
		IdleConnTimeout: 2 * wait, DisableCompression: true, ForceAttemptHTTP2: true,
		HTTP2: &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: silence},
	}
	if s.Proxy != "" {
		proxy, err := url.Parse(s.Proxy)
		if err != nil || proxy.Scheme != "http" || proxy.Host == "" || proxy.User != nil {
			return nil, errors.New("proxy: want http://HOST:PORT")
		}
		t.Proxy = http.ProxyURL(proxy)
	}
	return &client{
		http: &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
		base: u.JoinPath("v1", "hosts", host).String(), wait: wait, token: token,
	}, nil
}

func (p *Provider) configured() (*client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == nil {
		return nil, fmt.Errorf("%w: not configured", plugin.ErrInvalid)
	}
	return p.client, nil
}

// Watch implements plugin.Provider.
func (p *Provider) Watch(ctx context.Context, emit func(plugin.Snapshot) error) error {
	c, err := p.configured()
	if err != nil {
		return err
	}
	feed := &carry.Feed{Emit: emit}
	for etag, last := "", ""; ctx.Err() == nil; {
		begun := time.Now()
		snap, tag, err := c.ask(ctx, etag)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			p.log.Debug("the hub cannot be read", "error", err, "failures", feed.Failures()+1)
			feed.Bad(err)
			carry.Sleep(ctx, carry.Backoff(feed.Failures(), longest))
			continue
		case tag == "": // not modified
			feed.Same()
		default:
			etag = tag
			feed.Good(snap)
		}
		same := tag == "" || snap.Revision == last // the latter from a hub that knows no conditions
		if !same {
			last = snap.Revision
		}
		c.pace(ctx, same, time.Since(begun))
	}
	return ctx.Err()
}

// pace spares a hub that answers at once though there is nothing new: it does
// not hold answers back, and is asked as often as it was allowed to.
func (c *client) pace(ctx context.Context, same bool, took time.Duration) {
	d := least - took
	if same && took < c.wait/2 {
		d = c.wait - took
	}
	if d > 0 {
		carry.Sleep(ctx, d)
	}
}

// ask returns the set with its tag, or no tag if it is still the one of etag.
func (c *client) ask(ctx context.Context, etag string) (plugin.Snapshot, string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.wait+slack)
	defer cancel()
	r, err := c.request(ctx, http.MethodGet, "desired", nil)
	if err != nil {
		return plugin.Snapshot{}, "", err
	}
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
		r.Header.Set("Prefer", "wait="+strconv.Itoa(int(c.wait/time.Second)))
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return plugin.Snapshot{}, "", fmt.Errorf("ask the hub: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && etag != "":
		return plugin.Snapshot{}, "", nil
	case resp.StatusCode == http.StatusNotFound:
		return plugin.Snapshot{}, "", fmt.Errorf("the hub has no set for this host (GET %s: 404)", r.URL)
	case resp.StatusCode != http.StatusOK:
		return plugin.Snapshot{}, "", fmt.Errorf("ask the hub: GET %s: %s", r.URL, words(resp))
	}
	tag := resp.Header.Get("ETag")
	if tag == "" {
		return plugin.Snapshot{}, "", fmt.Errorf("the hub's answer to GET %s has no ETag", r.URL)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, carry.MaxBody+1))
	if err != nil {
		return plugin.Snapshot{}, "", fmt.Errorf("read the hub's answer: %w", err)
	}
	snap, err := carry.Decode(body)
	if err != nil {
		return snap, "", fmt.Errorf("the hub's answer to GET %s: %w", r.URL, err)
	}
	return snap, tag, nil
}

func (c *client) request(ctx context.Context, method, what string, body []byte) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base+"/"+what, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "felhom-agent")
	if c.token.Reveal() != "" {
		r.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	return r, nil
}

// words are the status and the beginning of what the hub said to it.
func words(resp *http.Response) string {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxWords)) // what was read before an error will do
	b = bytes.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, bytes.TrimSpace(bytes.ToValidUTF8(b, []byte("?"))))
	if len(b) == 0 {
		return resp.Status
	}
	return resp.Status + ": " + string(b)
}
