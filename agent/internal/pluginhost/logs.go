// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// hclogTo is a logger for go-plugin that ends in log. What go-plugin says
// about a plugin's life is what the host itself says better, so all of it is
// logged as debugging.
func hclogTo(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(sink{log})
	return l
}

// sink implements hclog.SinkAdapter.
type sink struct{ log *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s sink) Accept(_ string, _ hclog.Level, msg string, args ...any) {
	s.log.Debug("go-plugin: "+msg, args...)
}

// output logs what a plugin writes: within a rate, with its secrets masked,
// and with the level it gives itself when a line is JSON in hclog's form.
type output struct {
	log    *slog.Logger
	redact *strings.Replacer
	rate   float64 // lines a second
	burst  float64

	mu      sync.Mutex // guards what follows
	tokens  float64
	at      time.Time
	dropped int
	latest  string // as it came
}

func newOutput(o Options, name string, secrets []string) *output {
	return &output{
		log: o.Logger.With("plugin", name), redact: redactor(secrets),
		rate: float64(o.LogRate), burst: float64(o.LogBurst), tokens: float64(o.LogBurst), at: time.Now(),
	}
}

// line takes one line of a stream.
func (o *output) line(stream, line string) {
	line = strings.ToValidUTF8(strings.TrimRight(line, "\r\n"), "\uFFFD")
	if strings.TrimSpace(line) == "" {
		return
	}
	if !o.take(line) {
		return
	}
	level, msg, fields := o.read(line)
	args := []any{"stream", stream, "text", msg}
	if len(fields) > 0 {
		args = append(args, slog.Any("fields", slog.GroupValue(fields...)))
	}
	o.log.Log(context.Background(), level, "plugin says", args...)
}

// read is parseLine with the secrets masked: behind JSON's escapes, too.
func (o *output) read(line string) (slog.Level, string, []slog.Attr) {
	level, msg, fields := parseLine(line)
	for i, f := range fields {
		fields[i] = slog.String(o.redact.Replace(f.Key), o.redact.Replace(f.Value.String()))
	}
	return level, o.redact.Replace(msg), fields
}

// take says whether one more line may be logged, and reports what was dropped
// before it.
func (o *output) take(line string) bool {
	o.mu.Lock()
	now := time.Now()
	o.tokens = min(o.burst, o.tokens+o.rate*now.Sub(o.at).Seconds())
	o.at = now
	if plainLevel(o.latest) != slog.LevelError { // the head of a stack trace tells more than its foot
		o.latest = line
	}
	if o.tokens < 1 {
		o.dropped++
		o.mu.Unlock()
		return false
	}
	o.tokens--
	dropped := o.dropped
	o.dropped = 0
	o.mu.Unlock()
	if dropped > 0 {
		o.log.Warn("plugin logs too much", "dropped_lines", dropped)
	}
	return true
}

// last is the line that came last, or the reason of a panic.
func (o *output) last() string {
	o.mu.Lock()
	line := o.latest
	o.mu.Unlock()
	if line == "" {
		return ""
	}
	_, words, fields := o.read(line)
	for _, f := range fields {
		words += " " + f.String()
	}
	return words
}

// parseLine reads one line. In JSON it looks for hclog's three fields; a field
// that is not of the type it should be is treated as any other. A plain line
// is information; a plugin that wants levels writes JSON.
func parseLine(line string) (slog.Level, string, []slog.Attr) {
	var raw map[string]any
	if line[0] != '{' || json.Unmarshal([]byte(line), &raw) != nil {
		return plainLevel(line), line, nil
	}
	msg, ok := raw["@message"].(string)
	if !ok {
		return slog.LevelInfo, line, nil
	}
	levelName, _ := raw["@level"].(string)
	delete(raw, "@message")
	delete(raw, "@level")
	delete(raw, "@timestamp")
	var fields []slog.Attr
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		fields = append(fields, slog.String(k, fmt.Sprint(raw[k])))
	}
	return levelOf(levelName), msg, fields
}

func levelOf(name string) slog.Level {
	switch strings.ToLower(name) {
	case "trace", "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// plainLevel lets the end of a Go program stand out.
func plainLevel(line string) slog.Level {
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		return slog.LevelError
	}
	return slog.LevelInfo
}
