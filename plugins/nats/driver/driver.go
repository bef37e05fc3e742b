// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package driver is the provider of a fleet that keeps its desired state in
// NATS JetStream: one key of a key-value bucket for each host and set, and a
// stream that the hosts report to. felhom-agent.toml(5) has the settings.
//
// It guarantees that a key which is missing or was deleted, a bucket that was
// wiped and a server that cannot be reached are errors, never an empty set;
// that the key is read again now and then whatever the watch says; that a value
// which was replaced already is not given again, whichever replica answers; and
// that a report counts as told only when the stream has it.
package driver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/internal/carry"
)

const (
	// longest is the longest wait before the next attempt to connect or watch.
	longest = 30 * time.Second
	// answer is how long the server may take to answer one question.
	answer = 10 * time.Second
	// A connection that is silent for so many pings is dead: it was cut off.
	pingEvery = 20 * time.Second
	pingsLost = 2
)

// Settings is the configuration of the plugin. The secrets are nkey (a seed) or
// creds (a file of a JWT and its seed, as nsc writes it), and client_key, the
// key of cert_file.
type Settings struct {
	// Servers are tls://HOST[:PORT] or nats://HOST[:PORT].
	Servers []string `json:"servers"`
	// Plaintext allows nats:// to a server that is not on this host.
	Plaintext bool `json:"plaintext"`
	// Bucket and Set name the key: HOST.SET in Bucket; default felhom, desired.
	Bucket string `json:"bucket"`
	Set    string `json:"set"`
	// Host is the name under which the fleet knows this host; default the
	// host's.
	Host string `json:"host"`
	// Subject is where reports go: SUBJECT.HOST.SET; default felhom.report. A
	// stream must take it. "-" sends none.
	Subject string `json:"subject"`
	// Relist is how often the key is read whatever the watch says, as a Go
	// duration from 1s to 5m; default 1m.
	Relist string `json:"relist"`
	carry.TLSSettings
}

// Provider follows one key. Describe works at once, the rest after Configure.
type Provider struct {
	version string
	log     *slog.Logger
	back    chan struct{} // the connection is back
	newest  newest

	mu   sync.Mutex // guards what follows
	conf *config
	conn *nats.Conn

	whyMu sync.Mutex // guards why; mu may be held, as the callbacks do not take it
	why   error      // why the last attempt to connect failed
}

// config are settings that were checked.
type config struct {
	servers string
	options []nats.Option
	bucket  string
	key     string
	subject string // "" = no reports
	relist  time.Duration
}

// New makes a provider that is not configured.
func New(version string, log *slog.Logger) *Provider {
	return &Provider{version: version, log: log, back: make(chan struct{}, 1)}
}

// Describe implements plugin.Provider.
func (p *Provider) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{Name: "nats", Version: p.version}, nil
}

// Configure implements plugin.Configurer. It does not connect: a server that is
// away is no wrong configuration.
func (p *Provider) Configure(_ context.Context, c plugin.Config) error {
	s := Settings{Bucket: "felhom", Set: "desired", Subject: "felhom.report", Relist: "1m"}
	if err := c.Decode(&s); err != nil {
		return err
	}
	for name := range c.Secrets {
		if name != "nkey" && name != "creds" && name != "client_key" {
			return fmt.Errorf("%w: secrets: there is no use for %q; want nkey, creds or client_key", plugin.ErrInvalid, name)
		}
	}
	conf, err := newConfig(s, c.Secrets)
	if err != nil {
		return fmt.Errorf("%w: config: %w", plugin.ErrInvalid, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conf = conf
	return nil
}

var (
	isWord    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString
	isSubject = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$`).MatchString
)

func newConfig(s Settings, secrets map[string]plugin.Secret) (*config, error) {
	host, err := carry.Host(s.Host)
	if err != nil {
		return nil, err
	}
	for what, v := range map[string]string{"bucket": s.Bucket, "set": s.Set} {
		if !isWord(v) {
			return nil, fmt.Errorf("%s: want letters, digits, _ and -", what)
		}
	}
	c := &config{bucket: s.Bucket, key: host + "." + s.Set}
	if s.Subject != "-" {
		if !isSubject(s.Subject) {
			return nil, errors.New("subject: want words of letters, digits, _ and -, with dots between, or \"-\"")
		}
		c.subject = s.Subject + "." + c.key
	}
	if c.relist, err = time.ParseDuration(s.Relist); err != nil || c.relist < time.Second || c.relist > 5*time.Minute {
		return nil, fmt.Errorf("relist: %q is not a duration from 1s to 5m", s.Relist)
	}
	secure, err := s.checkServers()
	if err != nil {
		return nil, err
	}
	c.servers = strings.Join(s.Servers, ",")
	conf, err := s.TLSSettings.Config(secrets["client_key"])
	if err != nil {
		return nil, err
	}
	auth, err := credentials(secrets)
	if err != nil {
		return nil, err
	}
	c.options = append(options(host, secure, conf), auth...)
	return c, nil
}

// checkServers says whether TLS is wanted.
func (s Settings) checkServers() (secure bool, err error) {
	if len(s.Servers) == 0 || len(s.Servers) > 16 {
		return false, errors.New("servers: want 1 to 16 of tls://HOST[:PORT] or nats://HOST[:PORT]")
	}
	for _, raw := range s.Servers {
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "tls" && u.Scheme != "nats" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" ||
			strings.Contains(raw, ",") {
			return false, errors.New("servers: want tls://HOST[:PORT] or nats://HOST[:PORT]; what is secret belongs to secrets")
		}
		secure = secure || u.Scheme == "tls"
		ip := net.ParseIP(u.Hostname())
		if u.Scheme == "nats" && !s.Plaintext && (ip == nil || !ip.IsLoopback()) {
			return false, fmt.Errorf("servers: %s is not encrypted: use tls://, or set plaintext = true", u.Redacted())
		}
	}
	return secure, nil
}

// credentials are the options that prove who we are.
func credentials(secrets map[string]plugin.Secret) ([]nats.Option, error) {
	seed, creds := secrets["nkey"].Reveal(), secrets["creds"].Reveal()
	switch {
	case seed != "" && creds != "":
		return nil, errors.New("secrets: nkey and creds exclude each other")
	case seed != "":
		pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(seed)))
		if err != nil {
			return nil, errors.New("secrets: nkey is not a seed (it begins with SU)")
		}
		public, err := pair.PublicKey()
		if err != nil {
			return nil, errors.New("secrets: nkey is not a user's seed (it begins with SU)")
		}
		return []nats.Option{nats.Nkey(public, pair.Sign)}, nil
	case creds != "":
		if _, err := nkeys.ParseDecoratedNKey([]byte(creds)); err != nil {
			return nil, errors.New("secrets: creds is not a credentials file with a JWT and its seed")
		}
		return []nats.Option{nats.UserCredentialBytes([]byte(creds))}, nil
	}
	return nil, nil
}

// options keep a connection up for ever: who is cut off comes back, spread in
// time. Replies go to an inbox of the host's own, so that a server's
// permissions can keep the hosts of a fleet apart.
func options(host string, secure bool, conf *tls.Config) []nats.Option {
	all := []nats.Option{
		nats.Name("felhom-agent " + host), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.IgnoreAuthErrorAbort(),
		nats.CustomReconnectDelay(func(attempts int) time.Duration { return carry.Backoff(attempts, longest) }),
		nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsLost), nats.Timeout(answer), nats.NoEcho(),
		nats.CustomInboxPrefix("_INBOX.felhom." + host), nats.ReconnectBufSize(-1),
	}
	if secure {
		all = append(all, nats.Secure(conf))
	}
	return all
}

// stream is the connection's JetStream. The first call connects.
func (p *Provider) stream() (*config, jetstream.JetStream, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conf == nil {
		return nil, nil, fmt.Errorf("%w: not configured", plugin.ErrInvalid)
	}
	if p.conn == nil || p.conn.IsClosed() {
		opts := append([]nats.Option{
			nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { p.log.Warn("disconnected", "error", err) }),
			nats.ReconnectHandler(p.connected), nats.ConnectHandler(p.connected), nats.ReconnectErrHandler(p.failed),
			nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { p.log.Debug("connection", "error", err) }),
		}, p.conf.options...)
		conn, err := nats.Connect(p.conf.servers, opts...)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: connect to %s: %w", plugin.ErrUnavailable, p.conf.servers, err)
		}
		p.conn = conn
	}
	if !p.conn.IsConnected() {
		return nil, nil, fmt.Errorf("%w: not connected to %s: %w", plugin.ErrUnavailable, p.conf.servers, p.lastError())
	}
	js, err := jetstream.New(p.conn)
	return p.conf, js, err
}

func (p *Provider) connected(c *nats.Conn) {
	p.log.Info("connected", "server", c.ConnectedUrlRedacted())
	select {
	case p.back <- struct{}{}:
	default: // one is waiting already
	}
}

func (p *Provider) failed(_ *nats.Conn, err error) {
	p.whyMu.Lock()
	defer p.whyMu.Unlock()
	p.why = err
}

// lastError is why there is no connection.
func (p *Provider) lastError() error {
	p.whyMu.Lock()
	why := p.why
	p.whyMu.Unlock()
	return cmp.Or(why, p.conn.LastError(), errConnecting)
}

var errConnecting = errors.New("no server has answered yet")

// Close ends the connection.
func (p *Provider) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		p.conn.Close()
	}
}
