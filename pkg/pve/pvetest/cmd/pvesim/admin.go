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
	"net"
	"net/http"
	"path/filepath"
)

// admin talks to a node's administration socket.
type admin struct{ dir string }

// do makes a request; in and out are JSON and may be nil.
func (a admin) do(ctx context.Context, method, path string, in, out any) error {
	body, err := a.raw(ctx, method, path, in)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("answer of the node: %w", err)
	}
	return nil
}

// copy prints a JSON answer as it is.
func (a admin) copy(ctx context.Context, path string, out io.Writer) error {
	body, err := a.raw(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	_, err = out.Write(body)
	return err
}

func (a admin) raw(ctx context.Context, method, path string, in any) ([]byte, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, &body)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	resp, err := a.client().Do(req)
	if err != nil {
		return nil, fmt.Errorf("no node at %s: %w", a.socket(), err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("answer of the node: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, answerError(resp.Status, b)
	}
	return b, nil
}

func (a admin) socket() string { return filepath.Join(a.dir, "admin.sock") }

func (a admin) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", a.socket())
		},
	}}
}

func answerError(status string, body []byte) error {
	var e struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil && e.Error != "" {
		return errors.New(e.Error)
	}
	return errors.New(status)
}
