// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package natstest runs a real nats-server for tests: with JetStream in a
// temporary directory, on a free port of the loopback, to be restarted and
// wiped; and a proxy in front of it that can be cut.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/internal/carry"
)

// patience is generous: the machine may be busy.
const patience = 5 * time.Minute

// Server is a nats-server.
type Server struct {
	tb   testing.TB
	path string
	dir  string
	conf string
	port int
	cmd  *exec.Cmd
}

// Start starts a server that ends with the test; conf is added to its
// configuration. Where there is no nats-server the test is skipped with the
// reason, but in CI it fails.
func Start(tb testing.TB, conf string) *Server {
	tb.Helper()
	path, err := exec.LookPath("nats-server")
	if err != nil { // Debian has it where only root's PATH looks
		path, err = exec.LookPath("/usr/sbin/nats-server")
	}
	if err != nil {
		if os.Getenv("CI") != "" {
			tb.Fatalf("there is no nats-server: %v", err)
		}
		tb.Skipf("there is no nats-server: %v", err)
	}
	s := &Server{tb: tb, path: path, dir: tb.TempDir(), conf: conf, port: FreePort(tb)}
	s.Up()
	tb.Cleanup(s.Down)
	return s
}

// FreePort is a port of the loopback that nobody listens on at the moment. It is
// none of those that the kernel gives to whoever does not ask for one: such a port
// may be another connection's while the server is down.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for {
		port := 10_000 + rand.IntN(20_000)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = ln.Close()
			return port
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			tb.Fatal(err)
		}
	}
}

// Addr is where it listens.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL is the server's URL without TLS.
func (s *Server) URL() string { return "nats://" + s.Addr() }

// PID is the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Up starts the process and waits until it answers.
func (s *Server) Up() {
	s.tb.Helper()
	conf := fmt.Sprintf("listen: %q\nmax_payload: 8MB\njetstream { store_dir: %q, max_file_store: 1GB, max_memory_store: 64MB }\n%s\n",
		s.Addr(), filepath.Join(s.dir, "js"), s.conf)
	file := filepath.Join(s.dir, "nats.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		s.tb.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.path, "-c", file)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // another process: there is no event
		if c, err := net.Dial("tcp", s.Addr()); err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(end) {
			b, _ := os.ReadFile(log.Name())
			s.tb.Fatalf("nats-server does not come up:\n%s", b)
		}
	}
}

// Down kills the process as a power cut would; what it has synced stays.
func (s *Server) Down() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// Restart kills the process and starts it again.
func (s *Server) Restart() {
	s.Down()
	s.Up()
}

// Wipe restarts the server with nothing in it.
func (s *Server) Wipe() {
	s.Down()
	if err := os.RemoveAll(filepath.Join(s.dir, "js")); err != nil {
		s.tb.Fatal(err)
	}
	s.Up()
}

// JetStream is a client's view, for the test itself.
func (s *Server) JetStream(opts ...nats.Option) jetstream.JetStream {
	s.tb.Helper()
	nc, err := nats.Connect(s.URL(), append([]nats.Option{nats.MaxReconnects(-1), nats.ReconnectWait(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.tb.Fatal(err)
	}
	return js
}

// Fleet makes the bucket and the stream of reports. It waits for JetStream to
// be up.
func (s *Server) Fleet(js jetstream.JetStream) jetstream.KeyValue {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "felhom", History: 8})
		if err == nil {
			_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "felhom-reports", Subjects: []string{"felhom.report.>"}})
		}
		if err == nil {
			return kv
		}
		if ctx.Err() != nil {
			s.tb.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Put puts a set under a key.
func Put(ctx context.Context, kv jetstream.KeyValue, key string, files ...plugin.File) error {
	b, err := carry.Encode(files)
	if err != nil {
		return err
	}
	_, err = kv.Put(ctx, key, b)
	return err
}

// Proxy stands between client and server.
type Proxy struct {
	ln net.Listener
	to string

	mu    sync.Mutex // guards what follows
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// NewProxy is a proxy to addr that ends with the test.
func NewProxy(tb testing.TB, addr string) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{ln: ln, to: addr, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		_ = ln.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// URL is the proxy's.
func (p *Proxy) URL() string { return "nats://" + p.ln.Addr().String() }

// Cut ends every connection and takes no more.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Heal takes connections again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", p.to)
		if err != nil || !p.keep(c, up) {
			_ = c.Close()
			if up != nil {
				_ = up.Close()
			}
			continue
		}
		p.wg.Go(func() { p.pipe(c, up) })
		p.wg.Go(func() { p.pipe(up, c) })
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		return false
	}
	for _, c := range conns {
		p.conns[c] = true
	}
	return true
}

func (p *Proxy) pipe(from, to net.Conn) {
	_, _ = io.Copy(to, from) // it ends when either side does
	_ = from.Close()
	_ = to.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
}

// RSS is how much memory a process has resident, in bytes.
func RSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, errors.New("no VmRSS")
}
