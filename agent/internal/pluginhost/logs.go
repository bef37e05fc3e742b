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

	"github.com/felhom/felhom-agent/pkg/plugin"
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

// minRedacted is the length from which a secret's value is masked wherever it
// appears in a plugin's output. A shorter one would mask half of everything.
const minRedacted = 4

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
	latest  string
}

func newOutput(o Options, name string, secrets map[string]plugin.Secret) *output {
	var pairs []string
	for _, s := range secrets {
		for _, part := range strings.Split(s.Reveal(), "\n") { // output comes in lines
			if len(part) >= minRedacted {
				pairs = append(pairs, part, s.String())
			}
		}
	}
	return &output{
		log: o.Logger.With("plugin", name), redact: strings.NewReplacer(pairs...),
		rate: float64(o.LogRate), burst: float64(o.LogBurst), tokens: float64(o.LogBurst), at: time.Now(),
	}
}

// line takes one line of a stream.
func (o *output) line(stream, line string) {
	line = o.redact.Replace(strings.ToValidUTF8(strings.TrimRight(line, "\r\n"), "\uFFFD"))
	if strings.TrimSpace(line) == "" {
		return
	}
	if !o.take(line) {
		return
	}
	level, msg, args := parseLine(line)
	o.log.Log(context.Background(), level, "plugin says", append([]any{"stream", stream, "text", msg}, args...)...)
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
	defer o.mu.Unlock()
	return o.latest
}

// parseLine reads one line. In JSON it looks for hclog's three fields; a field
// that is not of the type it should be is treated as any other. A plain line
// is information; a plugin that wants levels writes JSON.
func parseLine(line string) (slog.Level, string, []any) {
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
	var fields []any
	for _, k := range slices.Sorted(maps.Keys(raw)) {
		fields = append(fields, slog.String(k, fmt.Sprint(raw[k])))
	}
	if len(fields) == 0 {
		return levelOf(levelName), msg, nil
	}
	return levelOf(levelName), msg, []any{slog.Group("fields", fields...)}
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
