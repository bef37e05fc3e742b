// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"
)

// Options are what a Client needs to know. URL and Token are required.
type Options struct {
	// URL is "https://HOST[:PORT]"; the port is 8006 if left out.
	URL   string
	Token Token
	// CA is a PEM bundle that the server's certificate must chain to, mostly
	// the cluster's pve-root-ca.pem. Without CA and without Pins the system's
	// roots decide.
	CA []byte
	// ServerName is the name the certificate must be for; the host of URL if
	// empty. It has no meaning with Pins alone.
	ServerName string
	// Pins are SHA-256 hashes of public keys, one of which the server must
	// have (see PinOf). Pins alone replace the check of chain, name and dates;
	// together with CA both must hold.
	Pins []string
	// ReadTimeout and WriteTimeout bound one call that reads or changes, from
	// dialling to the last byte of the answer. PVE's own proxy gives up after
	// 30 s, and hearing that it did is worth the wait: keep them above.
	ReadTimeout, WriteTimeout time.Duration
	// MaxAnswer bounds an answer's body in bytes.
	MaxAnswer int64
	// Dial replaces the dialling of TCP, for tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// The defaults of Options.
const (
	DefaultReadTimeout  = 35 * time.Second
	DefaultWriteTimeout = 40 * time.Second
	// DefaultMaxAnswer holds the list of some 100,000 guests.
	DefaultMaxAnswer = 64 << 20
)

// endpoint checks the URL and returns it with its port.
func (o Options) endpoint() (*url.URL, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, errors.New("pve: url: not a URL") // the text may hold a password
	}
	switch {
	case u.Scheme != "https":
		return nil, fmt.Errorf("pve: url: scheme %q, want https", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("pve: url: no host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return nil, errors.New("pve: url: want nothing but https://HOST[:PORT]")
	}
	port := u.Port()
	if port == "" {
		port = "8006"
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(u.Hostname(), port)}, nil
}

// withDefaults fills in what is not set.
func (o Options) withDefaults() Options {
	if o.ReadTimeout == 0 {
		o.ReadTimeout = DefaultReadTimeout
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = DefaultWriteTimeout
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = DefaultMaxAnswer
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

// roots reads the CA bundle; nil stands for the system's roots.
func (o Options) roots() (*x509.CertPool, error) {
	if len(o.CA) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(o.CA) {
		return nil, errors.New("pve: ca: no PEM certificate in it")
	}
	return pool, nil
}
