// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"io"
	"log/slog"
	"strings"
)

// logTime is the form of a time in hclog's JSON.
const logTime = "2006-01-02T15:04:05.000000Z07:00"

// NewLogger makes a logger whose lines the host reads with their level and
// fields, which it does on a plugin's standard error. Make it before Serve:
//
//	log := plugin.NewLogger(os.Stderr)
//
// All levels are written; the host drops what it does not want.
func NewLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: hclogKeys}))
}

// hclogKeys gives slog's three own keys the names that hclog has for them.
func hclogKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("@timestamp", a.Value.Time().Format(logTime))
	case slog.LevelKey:
		return slog.String("@level", strings.ToLower(a.Value.String()))
	case slog.MessageKey:
		return slog.String("@message", a.Value.String())
	}
	return a
}
