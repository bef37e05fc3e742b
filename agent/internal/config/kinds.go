// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// setting is one key of a table T of the file.
type setting[T any] struct {
	key     string
	want    string // what is allowed
	restart bool   // takes effect only when the agent is restarted
	// set takes the TOML value or says what is wrong with it.
	set func(t *T, v any) (wrong string)
	// same serves to tell whether a restart is needed.
	same func(a, b *T) bool
}

// simple is a setting of a comparable field: read turns the TOML value into
// the field's.
func simple[T any, V comparable](key, want string, field func(*T) *V, read func(any) (V, string)) setting[T] {
	return setting[T]{
		key: key, want: want,
		set: func(t *T, v any) (wrong string) {
			value, wrong := read(v)
			if wrong == "" {
				*field(t) = value
			}
			return wrong
		},
		same: func(a, b *T) bool { return *field(a) == *field(b) },
	}
}

// needsRestart marks a setting that takes effect only when the agent restarts.
func needsRestart[T any](s setting[T]) setting[T] {
	s.restart = true
	return s
}

func number[T any](key string, lo, hi int, field func(*T) *int) setting[T] {
	want := fmt.Sprintf("a whole number from %d to %d", lo, hi)
	return simple(key, want, field, func(v any) (int, string) {
		n, ok := v.(int64)
		if !ok {
			return 0, isKind(v)
		}
		if n < int64(lo) || n > int64(hi) {
			return 0, fmt.Sprintf("%d is out of range", n)
		}
		return int(n), ""
	})
}

func duration[T any](key string, lo, hi time.Duration, field func(*T) *time.Duration) setting[T] {
	want := fmt.Sprintf("a duration from %q to %q", short(lo), short(hi))
	return simple(key, want, field, func(v any) (time.Duration, string) {
		s, ok := v.(string)
		if !ok {
			return 0, isKind(v)
		}
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, quote(s) + " is not a duration"
		}
		if d < lo || d > hi {
			return 0, quote(s) + " is out of range"
		}
		return d, ""
	})
}

// short is 5m0s without the zeros behind.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func boolean[T any](key string, field func(*T) *bool) setting[T] {
	return simple(key, "true or false", field, func(v any) (bool, string) {
		b, ok := v.(bool)
		if !ok {
			return false, isKind(v)
		}
		return b, ""
	})
}

// text is a string that check finds right. A value that may hold a secret is
// not shown.
func text[T any](key, want string, show bool, field func(*T) *string, check func(string) bool) setting[T] {
	return simple(key, want, field, func(v any) (string, string) {
		s, ok := v.(string)
		switch {
		case !ok:
			return "", isKind(v)
		case check(s):
			return s, ""
		case !show:
			return "", "is not allowed"
		}
		return "", quote(s) + " is not allowed"
	})
}

func enum[T any, V ~string](key string, field func(*T) *V, values ...V) setting[T] {
	return simple(key, oneOf(values), field, func(v any) (V, string) {
		s, ok := v.(string)
		if !ok {
			return "", isKind(v)
		}
		if !slices.Contains(values, V(s)) {
			return "", quote(s) + " is unknown"
		}
		return V(s), ""
	})
}

func level[T any](key string, field func(*T) *slog.Level) setting[T] {
	names := []string{"debug", "info", "warn", "error"}
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	return simple(key, oneOf(names), field, func(v any) (slog.Level, string) {
		s, ok := v.(string)
		if !ok {
			return 0, isKind(v)
		}
		i := slices.Index(names, s)
		if i < 0 {
			return 0, quote(s) + " is unknown"
		}
		return levels[i], ""
	})
}

// path is an absolute path of at most most bytes.
func path[T any](key string, most int, field func(*T) *string) setting[T] {
	return text(key, absolute(most), true, field, func(s string) bool { return isPath(s, most) })
}

// optionalPath may be empty as well.
func optionalPath[T any](key string, field func(*T) *string) setting[T] {
	return text(key, absolute(maxPath)+", or \"\"", false, field, func(s string) bool {
		return s == "" || isPath(s, maxPath)
	})
}

func absolute(most int) string {
	return fmt.Sprintf("an absolute path without . and .. of at most %d bytes", most)
}

func isPath(s string, most int) bool {
	return len(s) <= most && filepath.IsAbs(s) && filepath.Clean(s) == s && printable(s)
}

// list is a list of lo to hi different values.
func list[T any, V comparable](key, want string, lo, hi int, field func(*T) *[]V, item func(any) (V, string)) setting[T] {
	set := func(t *T, v any) (wrong string) {
		items, ok := v.([]any)
		if !ok {
			return isKind(v)
		}
		if len(items) < lo || len(items) > hi {
			return fmt.Sprintf("has %d items", len(items))
		}
		var values []V
		for i, it := range items {
			value, wrong := item(it)
			if wrong == "" && slices.Contains(values, value) {
				wrong = "is given twice"
			}
			if wrong != "" {
				return fmt.Sprintf("item %d: %s", i+1, wrong)
			}
			values = append(values, value)
		}
		*field(t) = values
		return ""
	}
	same := func(a, b *T) bool { return slices.Equal(*field(a), *field(b)) }
	return setting[T]{key: key, want: want, set: set, same: same}
}

func uids[T any](key string, field func(*T) *[]int) setting[T] {
	const maxUID = 1<<32 - 2
	return list(key, "a list of 1 to 64 different user ids", 1, 64, field, func(v any) (int, string) {
		n, ok := v.(int64)
		if !ok {
			return 0, isKind(v)
		}
		if n < 0 || n > maxUID {
			return 0, fmt.Sprintf("%d is out of range", n)
		}
		return int(n), ""
	})
}

func vmids[T any](key string, field func(*T) *[]int) setting[T] {
	return list(key, "a list of at most 1000 different VMIDs", 0, 1000, field, func(v any) (int, string) {
		n, ok := v.(int64)
		if !ok {
			return 0, isKind(v)
		}
		if n < int64(guest.MinVMID) || n > int64(guest.MaxVMID) {
			return 0, fmt.Sprintf("%d is no VMID", n)
		}
		return int(n), ""
	})
}

func oneOf[V ~string](values []V) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = fmt.Sprintf("%q", string(v))
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}

// isKind says of what kind a TOML value is.
func isKind(v any) string {
	switch v.(type) {
	case string:
		return "is a string"
	case int64:
		return "is a whole number"
	case float64:
		return "is a number with a fraction"
	case bool:
		return "is true or false"
	case time.Time:
		return "is a time"
	case []any, []map[string]any:
		return "is a list"
	}
	return "is a table"
}

// quote shows a value, cut to what fits a line.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%.*q...", most, s)
	}
	return fmt.Sprintf("%q", s)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' })
}
