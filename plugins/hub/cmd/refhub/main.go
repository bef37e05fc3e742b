// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command refhub is a small hub, to try the hub provider with and to copy from.
// See HUB.md for the protocol and package refhub for what it does.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/plugins/hub/refhub"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "refhub:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("refhub", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:8443", "`address` to listen on")
	cert := f.String("cert", "", "the server's certificate, a PEM `file`")
	key := f.String("key", "", "its key, a PEM `file`")
	ca := f.String("client-ca", "", "who signs the hosts' certificates, a PEM `file`; empty takes none")
	sets := f.String("sets", "", "`directory` with a directory for each host")
	reports := f.String("reports", "", "`directory` for the hosts' reports; empty keeps none")
	tokens := f.String("tokens", "", "`file` with HOST TOKEN lines")
	url := f.String("url", "", "`file` to write the hub's URL to, for -listen with port 0")
	if err := f.Parse(args); err != nil {
		return err
	}
	hub := &refhub.Hub{Sets: *sets, Reports: *reports, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if *tokens != "" {
		var err error
		if hub.Tokens, err = refhub.ReadTokens(*tokens); err != nil {
			return err
		}
	}
	conf, err := tlsConfig(*cert, *key, *ca)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	if *url != "" {
		if err := os.WriteFile(*url, []byte("https://"+ln.Addr().String()), 0o600); err != nil {
			return errors.Join(err, ln.Close())
		}
	}
	return serve(ctx, tls.NewListener(ln, conf), hub)
}

func tlsConfig(cert, key, ca string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}}
	if ca == "" {
		return conf, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	if conf.ClientCAs = x509.NewCertPool(); !conf.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", ca)
	}
	conf.ClientAuth = tls.VerifyClientCertIfGiven
	return conf, nil
}

func serve(ctx context.Context, ln net.Listener, hub http.Handler) error {
	srv := &http.Server{
		Handler: hub, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 32 << 10, BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }() // ends with Shutdown
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// ctx has ended; the requests in progress get a moment of their own.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return srv.Shutdown(last)
}
