// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxQuiet is how long a hub may ask to be left alone.
const maxQuiet = 5 * time.Minute

// Report implements plugin.Reporter. The agent keeps what is to be told and
// tries again with growing waits; a hub that says when (Retry-After) is
// obeyed.
func (p *Provider) Report(ctx context.Context, r plugin.Report) error {
	c, err := p.configured()
	if err != nil {
		return err
	}
	p.mu.Lock()
	quiet := time.Until(p.quiet)
	p.mu.Unlock()
	if quiet > 0 {
		return fmt.Errorf("%w: the hub asked for no report for another %s", plugin.ErrUnavailable, quiet.Round(time.Second))
	}
	req, err := c.request(ctx, http.MethodPost, "reports", r.JSON)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: report to the hub: %w", plugin.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	p.retryAfter(resp)
	if kind := reportKind(resp.StatusCode); kind != nil {
		return fmt.Errorf("%w: report to the hub: POST %s: %s", kind, req.URL, words(resp))
	}
	return nil
}

// reportKind says what a status means for a report; nil: the hub has it.
func reportKind(status int) error {
	switch status {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return plugin.ErrUnsupported
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return plugin.ErrInvalid
	}
	return plugin.ErrUnavailable
}

func (p *Provider) retryAfter(resp *http.Response) {
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = time.Now().Add(min(time.Duration(seconds)*time.Second, maxQuiet))
}
