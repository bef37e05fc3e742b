// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// pveshCommand is `pvesh get PATH [--OPTION VALUE]...`; it prints JSON.
func pveshCommand(ctx context.Context, a admin, args []string, out io.Writer) error {
	if len(args) < 2 || args[0] != "get" {
		return fmt.Errorf("pvesh knows get PATH only: %w", errUsage)
	}
	opts, err := setParams(args[2:])
	if err != nil {
		return err
	}
	query := url.Values{"path": {args[1]}}
	for k, v := range opts {
		if k != "output-format" {
			query.Set(k, v)
		}
	}
	return a.copy(ctx, "/pvesh?"+query.Encode(), out)
}

// pveumCommand is pveum; what it answers is JSON.
func pveumCommand(ctx context.Context, a admin, args []string, out io.Writer) error {
	body, err := a.raw(ctx, http.MethodPost, "/pveum", map[string]any{"args": args})
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(body, &v); err != nil || v == nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.TrimSpace(string(body)))
	return err
}
