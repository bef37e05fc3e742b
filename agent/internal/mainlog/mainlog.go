// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package mainlog is where the daemon's main log goes: to systemd's journal
// with fields of its own when systemd started it, else as plain lines to
// stderr.
//
// It guarantees that the log stays small whatever happens: lines and values
// are cut, and past a rate lines are dropped, counted and reported. systemd's
// journal has a bound of its own; a file that stderr is sent to has not.
//
// In the journal each attribute is a field FELHOM_<NAME> beside the text, so
// that `journalctl FELHOM_GUEST=lxc/101` or `FELHOM_UPID=...` finds the lines
// of one guest or one task.
package mainlog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
)

// New is the daemon's handler: systemd's journal if stderr is connected to it,
// else lines on stderr. Either is bounded.
func New(stderr io.Writer, level slog.Leveler) slog.Handler {
	plain := slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: cut})
	if ok, err := journal.StderrIsJournalStream(); err != nil || !ok || !journal.Enabled() {
		return Bound(plain)
	}
	return Bound(&journalHandler{send: journal.Send, level: level, fallback: plain})
}

const (
	// maxValue bounds one value, in bytes, and maxMessage a whole text.
	maxValue   = 4 << 10
	maxMessage = 16 << 10
	// prefix of the fields: systemd's own have none, other programs' another.
	prefix = "FELHOM_"
)

// shorten cuts s at a whole character and says so.
func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return fmt.Sprintf("%s... (%d bytes more)", s[:most], len(s)-most)
}

// cut bounds a text handler's values.
func cut(_ []string, a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, shorten(v.String(), maxValue))
	case slog.KindAny:
		if s := fmt.Sprint(v.Any()); len(s) > maxValue {
			return slog.String(a.Key, shorten(s, maxValue))
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}

// journalHandler sends records to systemd's journal.
type journalHandler struct {
	send     func(message string, p journal.Priority, fields map[string]string) error
	level    slog.Leveler
	fallback slog.Handler // for what the journal does not take
	attrs    []field
	group    string // "plugin." of WithGroup
}

// field is one attribute with the groups it is in.
type field struct{ key, value string }

// Enabled implements slog.Handler.
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	all := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		all = flatten(all, h.group, a)
		return true
	})
	text := &strings.Builder{}
	text.WriteString(r.Message)
	fields := map[string]string{"SYSLOG_IDENTIFIER": "felhom-agent"}
	for _, f := range all {
		fmt.Fprintf(text, " %s=%s", f.key, quoted(f.value))
		fields[prefix+fieldName(f.key)] = f.value
	}
	if err := h.send(shorten(text.String(), maxMessage), priority(r.Level), fields); err != nil {
		return h.fallback.Handle(ctx, r)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	out := *h
	out.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		out.attrs = flatten(out.attrs, h.group, a)
	}
	out.fallback = h.fallback.WithAttrs(attrs)
	return &out
}

// WithGroup implements slog.Handler.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	out := *h
	out.group = h.group + name + "."
	out.fallback = h.fallback.WithGroup(name)
	return &out
}

// flatten appends an attribute; those of a group one by one.
func flatten(to []field, group string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, sub := range v.Group() {
			to = flatten(to, group, sub)
		}
		return to
	}
	if a.Equal(slog.Attr{}) {
		return to
	}
	return append(to, field{group + a.Key, shorten(v.String(), maxValue)})
}

// quoted is a value as it stands in a line: plain if it is plain.
func quoted(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// fieldName is a key as the journal takes it: A-Z, 0-9 and _.
func fieldName(key string) string {
	return shorten(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key[:min(len(key), 40)]), 40)
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
