// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

func testOutput(rate, burst int, secrets map[string]plugin.Secret) (*output, *capture) {
	c := &capture{}
	o := Options{Logger: slog.New(slog.NewTextHandler(c, &slog.HandlerOptions{Level: slog.LevelDebug})), LogRate: rate, LogBurst: burst}
	return newOutput(o, "a", revealed(secrets)), c
}

func TestOutputLines(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		`{"@level":"warn","@message":"disk full","dev":"sda","n":3}`: `level=WARN msg="plugin says" plugin=a stream=stderr text="disk full" fields.dev=sda fields.n=3`,
		`{"@message":5}`:              `level=INFO msg="plugin says" plugin=a stream=stderr text="{\"@message\":5}"`,
		`{"@message":"x","@level":7}`: `level=INFO msg="plugin says" plugin=a stream=stderr text=x`,
		`{"@message":`:                `level=INFO`,
		`plain`:                       `level=INFO msg="plugin says" plugin=a stream=stderr text=plain`,
		"panic: boom":                 `level=ERROR`,
		"a\x1b[31mb\x00\xff":          `text="a\x1b[31mb\x00�"`,
		`{"@level":"debug","@message":"m","plugin":"b","level":"ERROR"}`: `level=DEBUG msg="plugin says" plugin=a stream=stderr text=m fields.level=ERROR fields.plugin=b`,
	}
	for line, want := range tests {
		o, c := testOutput(100, 100, nil)
		o.line("stderr", line)
		if !strings.Contains(c.String(), want) {
			t.Errorf("%q was logged as %s, want %s", line, c, want)
		}
	}
	o, c := testOutput(100, 100, nil)
	o.line("stderr", "  \r")
	if c.String() != "" {
		t.Errorf("an empty line was logged as %s", c)
	}
}

func TestOutputRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, c := testOutput(10, 20, nil)
		for range 1000 {
			o.line("stdout", "x")
		}
		time.Sleep(time.Second)
		for range 1000 {
			o.line("stdout", "x")
		}
		if n := strings.Count(c.String(), "plugin says"); n != 30 {
			t.Errorf("%d lines were logged, want 20 and 10", n)
		}
		if !strings.Contains(c.String(), "dropped_lines=980") {
			t.Errorf("what was dropped is not told: %s", c)
		}
	})
}

func TestOutputMasksSecrets(t *testing.T) {
	t.Parallel()
	o, c := testOutput(100, 100, map[string]plugin.Secret{"a": "hunter22", "b": "first-line\nsecond-line", "c": "x"})
	o.line("stderr", `auth hunter22 failed: "second-line" x`)
	o.line("stderr", `{"@message":"auth","pw":"hunter22"}`)
	if strings.Contains(c.String(), "hunter22") || strings.Contains(c.String(), "second-line") || !strings.Contains(c.String(), "[secret]") {
		t.Errorf("logged: %s", c)
	}
	if strings.Contains(o.last(), "hunter22") {
		t.Error("the last words have it")
	}
}

func TestLastWordsAreThePanic(t *testing.T) {
	t.Parallel()
	o, _ := testOutput(1, 1, nil)
	for _, l := range []string{"starting", "panic: no database", "goroutine 1 [running]:", "main.go:5"} {
		o.line("stderr", l)
	}
	if got := o.last(); got != "panic: no database" {
		t.Errorf("last words %q", got)
	}
}

func TestSplitter(t *testing.T) {
	t.Parallel()
	var got []string
	s := &splitter{line: func(l string) { got = append(got, l) }}
	for _, p := range []string{"a\nb", "c\n", "\n", strings.Repeat("x", maxLine+2), "\n"} {
		s.write([]byte(p))
	}
	if len(got) != 5 || got[0] != "a" || got[1] != "bc" || got[2] != "" || len(got[3]) != maxLine || got[4] != "xx" {
		t.Errorf("%d lines: %.20q", len(got), got)
	}
}

func FuzzParseStdio(f *testing.F) {
	msg := protowire.AppendTag(nil, 1, protowire.VarintType)
	msg = protowire.AppendVarint(msg, 2)
	msg = protowire.AppendTag(msg, 2, protowire.BytesType)
	msg = protowire.AppendBytes(msg, []byte("hello\n"))
	f.Add(msg)
	f.Fuzz(func(t *testing.T, b []byte) {
		name, data := parseStdio(b)
		if len(data) > len(b) || len(name) > 6 {
			t.Errorf("%q, %d bytes of %d", name, len(data), len(b))
		}
	})
	if name, data := parseStdio(msg); name != "stderr" || string(data) != "hello\n" {
		f.Errorf("%q %q", name, data)
	}
}

func TestHandshakeLine(t *testing.T) {
	t.Parallel()
	const dir = "/run/p/x"
	tests := map[string]struct {
		refused bool
		why     string
	}{
		"1|1|unix|/run/p/x/s|grpc|cert":      {},
		"1|1|unix|/run/p/x/s|grpc":           {},
		"2|1|unix|/run/p/x/s|grpc|cert":      {true, "core"},
		"1|9|unix|/run/p/x/s|grpc|cert":      {true, `version "9"`},
		"1|1|unix|/run/p/x/s|netrpc|cert":    {true, "netrpc"},
		"1|1|unix|/run/p/x/../y/s|grpc|cert": {false, "own directory"},
		"1|1|tcp|127.0.0.1:80|grpc|cert":     {false, "own directory"},
		"Hello":                              {false, "where the handshake line belongs"},
		"":                                   {false, "where the handshake line belongs"},
	}
	for line, tt := range tests {
		err := checkHandshake(line, dir)
		if tt.why == "" {
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.why) || errors.Is(err, errRefused) != tt.refused {
			t.Errorf("%q: got %v", line, err)
		}
	}
}

// TestOutputMasksSecretsHoweverWritten: JSON writes some characters otherwise,
// one secret may begin another, and a file may have Windows' line ends.
func TestOutputMasksSecretsHoweverWritten(t *testing.T) {
	t.Parallel()
	for range 20 { // the order of a map is another one each time
		o, c := testOutput(100, 100, map[string]plugin.Secret{
			"quoted": `pa"ss\wd`, "html": "a<b&c>d", "win": "windows-line\r", "short": "abcd", "long": "abcdefgh-tail",
		})
		for _, l := range []string{
			`{"@message":"auth pa\"ss\\wd failed"}`, `{"@message":"auth","pw":"a\u003cb\u0026c\u003ed"}`, `{"@message":"x","pw":{"a<b&c>d":1}}`,
			"windows-line\r", "token abcdefgh-tail", `{"@message":"\u0061bcd"}`,
		} {
			o.line("stderr", l)
			for _, part := range []string{`ss\wd`, `ss\\wd`, `ss\\\\wd`, "b&c", `b\u0026c`, "windows-line", "-tail", "abcd", `\u0061bcd`} {
				if strings.Contains(c.String(), part) || strings.Contains(o.last(), part) {
					t.Fatalf("%q is in the log or the last words (%q):\n%s", part, o.last(), c)
				}
			}
		}
	}
}
