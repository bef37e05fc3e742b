// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// raw is a process that was started by hand: its handshake line is looked at
// before any host has taken it.
type raw struct {
	line  string // the first line of standard output; "" if it ended without
	extra string // what came after it
	err   string // the end of standard error
	exit  error  // how it ended, if it did
	ended bool
}

// startRaw executes the plugin as the host does, with these changes of its
// environment, waits for its first line, and kills it.
func (b *bench) startRaw(ctx context.Context, change map[string]string) (raw, error) {
	dir, err := os.MkdirTemp(b.dir, "r")
	if err != nil {
		return raw{}, err
	}
	defer os.RemoveAll(dir)
	cert, err := strangersCertificate()
	if err != nil {
		return raw{}, err
	}
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": dir, "TMPDIR": dir,
		plugin.CookieKey: plugin.CookieValue, "PLUGIN_MIN_PORT": "0", "PLUGIN_MAX_PORT": "0", "PLUGIN_PROTOCOL_VERSIONS": "1",
		"PLUGIN_UNIX_SOCKET_DIR": dir, "PLUGIN_CLIENT_CERT": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})),
	}
	for _, from := range []map[string]string{b.o.Env, change} {
		for k, v := range from {
			env[k] = v
		}
	}
	cmd := exec.Command(b.spec.Path, b.o.Args...)
	cmd.Dir = "/"
	for k, v := range env {
		if v != "" {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return watchRaw(ctx, cmd)
}

func watchRaw(ctx context.Context, cmd *exec.Cmd) (raw, error) {
	out, w, err := os.Pipe()
	if err != nil {
		return raw{}, err
	}
	defer out.Close()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = w, &limited{w: &said, left: 4 << 10}, time.Second
	err = errors.Join(cmd.Start(), w.Close())
	if err != nil {
		return raw{}, err
	}
	kill := func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var r raw
	read := make(chan struct{})
	go func() { // ends when the process and its output have; waited for below
		defer close(read)
		r.line, r.extra = readRaw(out, kill)
	}()
	timer := time.AfterFunc(startTimeout, kill)
	stop := context.AfterFunc(ctx, kill)
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	r.exit = <-waited
	r.ended = !killed(r.exit)
	timer.Stop()
	stop()
	kill()
	_ = out.SetReadDeadline(time.Now().Add(time.Second)) // a grandchild may hold the pipe
	<-read
	r.err = strings.TrimSpace(said.String())
	return r, nil
}

func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	ws, ok := exit.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// readRaw reads the first line, then what comes within a moment, and kills.
func readRaw(out *os.File, kill func()) (line, extra string) {
	var buf bytes.Buffer
	chunk := make([]byte, 4096)
	for !bytes.Contains(buf.Bytes(), []byte("\n")) && buf.Len() < 64<<10 {
		n, err := out.Read(chunk)
		buf.Write(chunk[:n])
		if err != nil {
			break
		}
	}
	_ = out.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	more, _ := io.ReadAll(io.LimitReader(out, 4<<10)) // a deadline or the end
	_ = out.SetReadDeadline(time.Time{})
	kill()
	line, extra, _ = strings.Cut(buf.String(), "\n")
	return line, extra + string(more)
}

// limited keeps only so much and swallows the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// firstChecks look at a process before any host has taken it.
func firstChecks() []check {
	return []check{
		{"cookie", "started by a person, it says so on standard error and ends with a status that is not 0", checkCookie},
		{"handshake", "one line: core protocol 1, version 1, a unix socket in its own directory, grpc, its certificate", checkHandshake},
		{"stdout", "nothing but the handshake line is printed on standard output", checkStdout},
		{"newer host", "a host that speaks more versions is answered with the one both have", checkNewerHost},
		{"foreign host", "a host that speaks none of its versions is answered with its own, or it ends and says why", checkForeignHost},
	}
}

func checkCookie(ctx context.Context, b *bench) (string, error) {
	r, err := b.startRaw(ctx, map[string]string{plugin.CookieKey: ""})
	switch {
	case err != nil:
		return "", err
	case !r.ended:
		return "", errors.New("it runs as if the agent had started it")
	case r.exit == nil:
		return "", errors.New("it ended with status 0")
	case r.line != "":
		return "", fmt.Errorf("it printed %.100q on standard output; people read standard error", r.line)
	case r.err == "":
		return "", errors.New("it said nothing on standard error")
	}
	return "", nil
}

func checkHandshake(ctx context.Context, b *bench) (string, error) {
	r, err := b.startRaw(ctx, nil)
	if err != nil {
		return "", err
	}
	return "", r.judge("1")
}

// judge says what is wrong with a handshake line.
func (r raw) judge(version string) error {
	if r.line == "" {
		return fmt.Errorf("it ended without a handshake line (%s); it said: %.300s", fmt.Sprint(r.exit), r.err)
	}
	f := strings.Split(r.line, "|")
	switch {
	case len(f) < 6:
		return fmt.Errorf("the first line is %.200q, which has not six fields", r.line)
	case f[0] != "1" || f[1] != version:
		return fmt.Errorf("core protocol %.20q, version %.20q; want 1 and %s", f[0], f[1], version)
	case f[2] != "unix" || f[4] != "grpc":
		return fmt.Errorf("%.20q over %.20q; want grpc over unix", f[4], f[2])
	case len(f[3]) > 107 || !filepath.IsAbs(f[3]):
		return fmt.Errorf("the socket is %.200q: want an absolute path of at most 107 bytes", f[3])
	}
	return judgeCertificate(f[5])
}

func judgeCertificate(field string) error {
	der, err := base64.RawStdEncoding.DecodeString(field)
	if err != nil {
		return fmt.Errorf("the certificate is not base64 without padding: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	if err := cert.VerifyHostname("localhost"); err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	if now := time.Now(); now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return fmt.Errorf("the certificate is valid from %s to %s", cert.NotBefore, cert.NotAfter)
	}
	return nil
}

func checkStdout(ctx context.Context, b *bench) (string, error) {
	r, err := b.startRaw(ctx, nil)
	switch {
	case err != nil:
		return "", err
	case !strings.HasPrefix(r.line, "1|"):
		return "", fmt.Errorf("the first line is %.200q", r.line)
	case r.extra != "":
		return "", fmt.Errorf("after the handshake came %.200q", r.extra)
	}
	return "", nil
}

func checkNewerHost(ctx context.Context, b *bench) (string, error) {
	r, err := b.startRaw(ctx, map[string]string{"PLUGIN_PROTOCOL_VERSIONS": "1,99"})
	if err != nil {
		return "", err
	}
	return "", r.judge("1")
}

func checkForeignHost(ctx context.Context, b *bench) (string, error) {
	r, err := b.startRaw(ctx, map[string]string{"PLUGIN_PROTOCOL_VERSIONS": "99"})
	switch {
	case err != nil:
		return "", err
	case r.line == "" && r.err == "":
		return "", errors.New("it ended and said nothing")
	case r.line == "":
		return "it ends", nil
	case strings.HasPrefix(r.line, "1|99|"):
		return "", errors.New("it claims to speak version 99")
	}
	return "", r.judge("1")
}

// strangersCertificate is one that no plugin trusts.
func strangersCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
