// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func isNotSent(err error) bool { return errors.Is(err, plugin.ErrNotSent) }

// fileSink adds a JSON line per note to a file. What is in the file was
// delivered, so it always knows.
type fileSink struct{ path string }

func (s fileSink) send(_ context.Context, n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	return appendLine(s.path, string(b))
}

func (s fileSink) sent(n note) (yes, known bool, err error) {
	err = eachLine(s.path, func(line string) {
		var have note
		if json.Unmarshal([]byte(line), &have) == nil && have.Key == n.Key {
			yes = true
		}
	})
	return yes, err == nil, err
}

func (fileSink) again() bool { return true } // it was looked up

// newWebhook makes one that sends each note by one request: net/http would
// repeat a request with an Idempotency-Key when a kept connection breaks, and
// follow a redirect with a second one.
func newWebhook(url string, token plugin.Secret, repeat bool) *webhook {
	return &webhook{url: url, token: token, repeat: repeat, client: &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// webhook posts a note. Nobody can ask it afterwards what has arrived.
type webhook struct {
	url    string
	token  plugin.Secret
	repeat bool
	client *http.Client
}

func (s *webhook) send(ctx context.Context, n note) error {
	b, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", n.Key)
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token.Reveal())
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err // it may have arrived
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 300)) // for the operator only
	switch {
	case resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w: the receiver says %s: %s", plugin.ErrNotSent, plugin.ErrDenied, resp.Status, strings.TrimSpace(string(said)))
	case resp.StatusCode < 500:
		return fmt.Errorf("%w: the receiver says %s: %s", plugin.ErrNotSent, resp.Status, strings.TrimSpace(string(said)))
	}
	return fmt.Errorf("the receiver says %s: %s", resp.Status, strings.TrimSpace(string(said)))
}

func (*webhook) sent(note) (yes, known bool, err error) { return false, false, nil }
func (s *webhook) again() bool                          { return s.repeat }
