// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// flags of a running node.
type flags struct {
	dir, listen, node, guests, pve string
	speed                          float64
	skew                           time.Duration
	user, token, role              string
	hookEnv                        []string
	quiet                          bool
}

// agentPrivs is the role the token gets: enough to manage guests.
const agentPrivs = "VM.Audit VM.PowerMgmt VM.Allocate VM.Clone VM.Config.CPU VM.Config.Memory VM.Config.Disk " +
	"VM.Config.Network VM.Config.Options VM.Config.HWType VM.Config.CDROM VM.Config.Cloudinit VM.Snapshot " +
	"VM.Snapshot.Rollback VM.Backup VM.Migrate VM.Console Datastore.Audit Datastore.AllocateSpace SDN.Use SDN.Audit Sys.Audit Pool.Audit"

func parseFlags(dir string, args []string, errOut io.Writer) (*flags, error) {
	f := &flags{}
	fs := flag.NewFlagSet("pvesim", flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.StringVar(&f.dir, "dir", dir, "`directory` for everything the node writes: ca.pem, node.pem, token, admin.sock, etc-pve/, storage/")
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8006", "`address` of the API (port 0 picks one; see DIR/url)")
	fs.StringVar(&f.node, "node", "pve1", "`name` of the node")
	fs.StringVar(&f.guests, "guests", "", "TOML `file` with the guests (see README.md); none gives an empty node")
	fs.StringVar(&f.pve, "pve", "9", "PVE `version`: 8, 9, or in full as 8.4.21")
	fs.Float64Var(&f.speed, "speed", 1, "`factor` by which guests are faster than recorded ones")
	fs.DurationVar(&f.skew, "skew", 0, "how far the node's clock is ahead")
	fs.StringVar(&f.user, "user", "felhom@pve", "`user` that owns the token")
	fs.StringVar(&f.token, "token", "agent", "token `id`; its secret is in DIR/token")
	fs.StringVar(&f.role, "privs", agentPrivs, "`privileges` of user and token on /, separated by blanks")
	fs.Func("hook-env", "`KEY=VALUE` for the environment of hookscripts; may be given again", func(v string) error {
		if !strings.Contains(v, "=") {
			return fmt.Errorf("%q is not KEY=VALUE", v)
		}
		f.hookEnv = append(f.hookEnv, v)
		return nil
	})
	fs.BoolVar(&f.quiet, "quiet", false, "log nothing but errors")
	fs.Usage = func() {
		_, _ = fmt.Fprint(errOut, usage+"\nFlags of a node:\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unknown command %q: %w", fs.Arg(0), errUsage)
	}
	return f, nil
}

func (f *flags) version() string {
	switch f.pve {
	case "8":
		return "8.4.21"
	case "9":
		return "9.2.11"
	}
	return f.pve
}

// serveCommand runs a node until ctx ends.
func serveCommand(ctx context.Context, dir string, args []string, out, errOut io.Writer) error {
	f, err := parseFlags(dir, args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	secret, err := prepareDir(f)
	if err != nil {
		return err
	}
	sim, err := newSim(f, secret, errOut)
	if err != nil {
		return err
	}
	defer sim.Close()
	return serve(ctx, f, sim, out)
}

// prepareDir makes the directories and the token file (mode 0600); a token
// that is there already is kept.
func prepareDir(f *flags) (secret string, err error) {
	for _, d := range []string{"", "etc-pve", "storage/snippets"} {
		if err := os.MkdirAll(filepath.Join(f.dir, d), 0o755); err != nil {
			return "", fmt.Errorf("prepare directory: %w", err)
		}
	}
	path := filepath.Join(f.dir, "token")
	id := f.user + "!" + f.token
	if b, err := os.ReadFile(path); err == nil {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(string(b)), id+"="); ok && rest != "" {
			return rest, nil
		}
	}
	secret = newUUID()
	if err := os.WriteFile(path, []byte(id+"="+secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write token: %w", err)
	}
	return secret, nil
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newSim(f *flags, secret string, errOut io.Writer) (*pvetest.Sim, error) {
	opt := pvetest.Options{
		Node: f.node, Version: f.version(), Speed: f.speed, Skew: f.skew, HookEnv: f.hookEnv,
		EtcPVE:   filepath.Join(f.dir, "etc-pve"),
		Storages: []pvetest.Storage{{ID: "local", Path: filepath.Join(f.dir, "storage")}},
		Users:    []pvetest.User{{ID: f.user, Tokens: []pvetest.Token{{ID: f.token, Secret: secret}}}},
		Roles:    map[string][]string{"Agent": strings.Fields(f.role)},
		ACL:      []pvetest.Grant{{Path: "/", Who: f.user, Role: "Agent"}, {Path: "/", Who: f.user + "!" + f.token, Role: "Agent"}},
	}
	level := slog.LevelInfo
	if f.quiet {
		level = slog.LevelError
	}
	opt.Log = slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))
	if f.guests != "" {
		var err error
		if opt.Guests, err = readGuests(f.guests); err != nil {
			return nil, err
		}
	}
	return pvetest.New(opt)
}

// serve opens both sockets and waits for the end.
func serve(ctx context.Context, f *flags, sim *pvetest.Sim, out io.Writer) error {
	api, url, err := listenAPI(f, sim)
	if err != nil {
		return err
	}
	sock := filepath.Join(f.dir, "admin.sock")
	_ = os.Remove(sock) // left by a node that was killed
	adm, err := net.Listen("unix", sock)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(sock, 0o600); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	apiSrv, admSrv := sim.Server(), &http.Server{Handler: sim.Admin(), ReadHeaderTimeout: 10 * time.Second}
	errs := make(chan error, 2)
	go func() { errs <- apiSrv.Serve(api) }()
	go func() { errs <- admSrv.Serve(adm) }()
	_, _ = fmt.Fprintf(out, "pvesim: node %s, PVE %s, at %s (files in %s)\n", f.node, f.version(), url, f.dir)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-errs:
		errs <- nil
	}
	_, _ = apiSrv.Close(), admSrv.Close()
	<-errs // of the server that was just closed
	return err
}

// listenAPI writes the certificates and DIR/url and opens the API's socket.
func listenAPI(f *flags, sim *pvetest.Sim) (net.Listener, string, error) {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	var addrs []net.IP
	if ip := net.ParseIP(host); ip != nil {
		addrs = append(addrs, ip)
	}
	certs, err := certificates(f, addrs)
	if err != nil {
		return nil, "", fmt.Errorf("certificates: %w", err)
	}
	sim.SetFingerprint(certs.Fingerprint())
	l, err := tls.Listen("tcp", f.listen, &tls.Config{Certificates: []tls.Certificate{certs.TLS}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w", err)
	}
	url := "https://" + l.Addr().String()
	if err := os.WriteFile(filepath.Join(f.dir, "url"), []byte(url+"\n"), 0o644); err != nil {
		_ = l.Close()
		return nil, "", fmt.Errorf("write url: %w", err)
	}
	return l, url, nil
}

// certificates are those of the directory, as a node keeps its own over a
// reboot, or new ones.
func certificates(f *flags, addrs []net.IP) (*pvetest.Certificates, error) {
	path := func(name string) string { return filepath.Join(f.dir, name) }
	ca, caErr := os.ReadFile(path("ca.pem"))
	cert, certErr := os.ReadFile(path("node.pem"))
	key, keyErr := os.ReadFile(path("node.key"))
	if errors.Join(caErr, certErr, keyErr) == nil {
		if pair, err := tls.X509KeyPair(cert, key); err == nil {
			return &pvetest.Certificates{CA: ca, Cert: cert, Key: key, TLS: pair}, nil
		}
	}
	c, err := pvetest.NewCertificates(f.node, addrs...)
	if err != nil {
		return nil, err
	}
	// The key last: without it all three are made anew.
	return c, errors.Join(os.WriteFile(path("ca.pem"), c.CA, 0o644), os.WriteFile(path("node.pem"), c.Cert, 0o644),
		os.WriteFile(path("node.key"), c.Key, 0o600))
}
