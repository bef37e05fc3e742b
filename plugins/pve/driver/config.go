// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// Config is the plugin's configuration table.
type Config struct {
	// URL is the API's, "https://HOST[:8006]"; the default is this machine's.
	URL string `json:"url"`
	// TokenFile holds "user@realm!tokenid=secret". Instead of it the host may
	// hand over a secret named "token".
	TokenFile string `json:"token_file"`
	// CAFile and ServerName say which certificate to believe, Pins which public
	// keys; see pve.Options.
	CAFile     string   `json:"ca_file"`
	ServerName string   `json:"server_name"`
	Pins       []string `json:"pins"`
	// Node is the node's name.
	Node string `json:"node"`
	// VMList is the path of .vmlist, mostly /etc/pve/.vmlist.
	VMList string `json:"vmlist"`
	// PollSeconds and PollFileSeconds are how often to look for changes: at the
	// API, and at VMList. 0 stands for the defaults, 2 and 0.5.
	PollSeconds     float64 `json:"poll_seconds"`
	PollFileSeconds float64 `json:"poll_file_seconds"`
}

// DefaultURL is the API of the machine the plugin runs on.
const DefaultURL = "https://localhost:8006"

// The range of the poll intervals, in seconds.
const (
	minPoll = 0.05
	maxPoll = 3600
)

// maxFile bounds the files that a configuration names, in bytes.
const maxFile = 16 << 20

// Configure reads the configuration; see [Config]. It does not connect.
func (d *Driver) Configure(_ context.Context, c plugin.Config) error {
	var conf Config
	if err := c.Decode(&conf); err != nil {
		return err
	}
	o, err := conf.options(c.Secrets)
	if err == nil {
		err = d.set(o)
	}
	if err != nil {
		return fmt.Errorf("%w: config: %w", plugin.ErrInvalid, err)
	}
	return nil
}

// options turns a configuration into the options of a Driver.
func (c Config) options(secrets map[string]plugin.Secret) (Options, error) {
	if !pve.ValidNode(c.Node) {
		return Options{}, fmt.Errorf("node: %q is not a node name", c.Node)
	}
	poll, err := interval("poll_seconds", c.PollSeconds)
	if err != nil {
		return Options{}, err
	}
	pollFile, err := interval("poll_file_seconds", c.PollFileSeconds)
	if err != nil {
		return Options{}, err
	}
	client, err := c.client(secrets)
	if err != nil {
		return Options{}, err
	}
	return Options{Client: client, Node: c.Node, VMList: c.VMList, Poll: poll, PollFile: pollFile}, nil
}

func interval(key string, seconds float64) (time.Duration, error) {
	if seconds != 0 && (seconds < minPoll || seconds > maxPoll) {
		return 0, fmt.Errorf("%s: %v is not from %v to %v", key, seconds, minPoll, maxPoll)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

func (c Config) client(secrets map[string]plugin.Secret) (*pve.Client, error) {
	o := pve.Options{URL: c.URL, ServerName: c.ServerName, Pins: c.Pins}
	if o.URL == "" {
		o.URL = DefaultURL
	}
	var err error
	if o.Token, err = c.token(secrets); err != nil {
		return nil, err
	}
	if c.CAFile != "" {
		if o.CA, err = readFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
	}
	return pve.New(o)
}

// token takes the token that was handed over, or reads the file.
func (c Config) token(secrets map[string]plugin.Secret) (pve.Token, error) {
	handed, ok := secrets["token"]
	switch {
	case ok && c.TokenFile != "":
		return pve.Token{}, errors.New("token_file: a token was handed over as well")
	case ok:
		return pve.ParseToken(handed.Reveal())
	case c.TokenFile == "":
		return pve.Token{}, errors.New("token_file: neither it nor a secret named token is given")
	}
	text, err := readFile(c.TokenFile)
	if err != nil {
		return pve.Token{}, fmt.Errorf("token_file: %w", err)
	}
	t, err := pve.ParseToken(string(text))
	if err != nil {
		return pve.Token{}, fmt.Errorf("token_file: %s: %w", c.TokenFile, err)
	}
	return t, nil
}

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}
