// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugincheck

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/felhom/felhom-agent/agent/internal/pluginhost"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// service is the full name of a service of the protocol.
func service(name string) string { return "/felhom.plugin.v1." + name + "/" }

// asBytes sends bytes as they are, and takes what comes.
type asBytes struct{}

func (asBytes) Name() string { return "proto" }

func (asBytes) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, fmt.Errorf("%T is not bytes", v)
}

func (asBytes) Unmarshal(data []byte, v any) error {
	if p, ok := v.(*[]byte); ok {
		*p = slices.Clone(data)
	}
	return nil
}

// call sends raw bytes to a method with one answer.
func call(ctx context.Context, p *pluginhost.Process, method string, msg []byte) error {
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	var answer []byte
	return p.Conn().Invoke(ctx, method, msg, &answer, grpc.ForceCodec(asBytes{}),
		grpc.MaxCallSendMsgSize(1<<30), grpc.MaxCallRecvMsgSize(plugin.MaxMessage))
}

// harmless is the method that every plugin of this kind has and that changes
// nothing.
func (b *bench) harmless() string {
	name := map[plugin.Kind]string{plugin.KindExecutor: "Executor", plugin.KindObserver: "Observer", plugin.KindProvider: "Provider"}
	return service(name[b.kinds[0]]) + "Describe"
}

func checkHealth(ctx context.Context, b *bench) (string, error) {
	p, err := b.process(ctx)
	if err != nil {
		return "", err
	}
	begin := time.Now()
	if err := p.Health(ctx); err != nil {
		return "", err
	}
	if took := time.Since(begin); took > b.patient(b.opts.HealthTimeout) {
		return "", fmt.Errorf("it took %v; the agent waits %v", took, b.opts.HealthTimeout)
	}
	return "", nil
}

func checkUnknownKey(ctx context.Context, b *bench) (string, error) {
	s := b.spec
	s.Config = map[string]any{"felhom_plugin_test": "unknown"}
	for k, v := range b.spec.Config {
		s.Config[k] = v
	}
	p, err := pluginhost.Launch(ctx, b.opts, s)
	switch {
	case err == nil:
		return "", errors.Join(errors.New("it took a key that it cannot know (felhom_plugin_test): a mistyped key would be ignored"), p.Stop(true))
	case !errors.Is(err, pluginhost.ErrRefused):
		return "", fmt.Errorf("the error is not INVALID_ARGUMENT: %w", err)
	case !strings.Contains(err.Error(), "felhom_plugin_test"):
		return "", fmt.Errorf("the error does not name the key: %w", err)
	}
	return "", nil
}

// checkOther calls what is not served.
func checkOther(ctx context.Context, b *bench) (string, error) {
	p, err := b.process(ctx)
	if err != nil {
		return "", err
	}
	methods := []string{service("Plugin") + "NoSuchMethod", service("NoSuchService") + "Do"}
	for k, name := range map[plugin.Kind]string{plugin.KindExecutor: "Executor", plugin.KindObserver: "Observer", plugin.KindProvider: "Provider"} {
		if !slices.Contains(b.kinds, k) {
			methods = append(methods, service(name)+"Describe")
		}
	}
	for _, m := range methods {
		if err := call(ctx, p, m, nil); status.Code(err) != codes.Unimplemented {
			return "", fmt.Errorf("%s: want UNIMPLEMENTED, got %v", m, status.Convert(err))
		}
	}
	return "", stillAlive(ctx, p)
}

// checkBig sends messages just below and far above the bound.
func checkBig(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Stop(true) }() // its end is judged elsewhere
	// A field that no message has: it must be read over.
	field := func(n int) []byte {
		b, _ := proto.Marshal(&pluginpb.ReportRequest{Json: make([]byte, n)}) // cannot fail
		return append([]byte{0xfa, 0x7f}, b[1:]...)                           // field 2047 in the place of field 2
	}
	if err := call(ctx, p, b.harmless(), field(plugin.MaxMessage-1024)); err != nil {
		return "", fmt.Errorf("a request of nearly 16 MiB, with a field that it does not know: %w", err)
	}
	if err := call(ctx, p, b.harmless(), field(plugin.MaxMessage+1024)); err == nil {
		return "", errors.New("a request of more than 16 MiB was taken: what is read must be bounded")
	}
	return "", stillAlive(ctx, p)
}

// checkGarbage sends what is not a message.
func checkGarbage(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Stop(true) }()
	for _, junk := range [][]byte{{0xff}, {0x0a, 0x7f, 'x'}, []byte(strings.Repeat("\xff\x00", 4096))} {
		for _, m := range []string{service("Plugin") + "Configure", b.harmless(), service("Executor") + "Probe", service("Provider") + "Report"} {
			if err := call(ctx, p, m, junk); err == nil {
				return "", fmt.Errorf("%s took %.20q for a request", m, junk)
			}
		}
		if err := stillAlive(ctx, p); err != nil {
			return "", fmt.Errorf("after %.20q: %w", junk, err)
		}
	}
	return "", nil
}

// checkStrangers connects without the host's certificate.
func checkStrangers(ctx context.Context, b *bench) (string, error) {
	p, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = p.Stop(true) }()
	sock, err := socketIn(p.Dir())
	if err != nil {
		return "", err
	}
	other, err := strangersCertificate()
	if err != nil {
		return "", err
	}
	if err := talk(sock, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil { //nolint:gosec // a stranger does not care
		return "", errors.New("it answers a stranger without a certificate")
	}
	if err := talk(sock, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{other}}); err == nil { //nolint:gosec // as above
		return "", errors.New("it answers a stranger with a certificate of his own")
	}
	if err := talk(sock, nil); err == nil {
		return "", errors.New("it answers without TLS")
	}
	for range 50 { // and such as say nothing at all
		if c, err := net.Dial("unix", sock); err == nil {
			defer c.Close()
		}
	}
	return "", stillAlive(ctx, p)
}

func socketIn(dir string) (string, error) {
	all, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range all {
		if e.Type()&os.ModeSocket != 0 {
			return filepath.Join(dir, e.Name()), nil
		}
	}
	return "", errors.New("there is no socket in its directory")
}

// talk says hello in HTTP/2 and returns nil if it is answered in HTTP/2.
func talk(sock string, cfg *tls.Config) error {
	c, err := net.Dial("unix", sock)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if cfg != nil {
		c = tls.Client(c, cfg)
	}
	if _, err := c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
		return err
	}
	head := make([]byte, 9)
	n, err := c.Read(head)
	if err != nil {
		return err
	}
	if n < 4 || head[3] != 4 { // a SETTINGS frame
		return fmt.Errorf("answered with %x", head[:n])
	}
	return nil
}

func checkTwo(ctx context.Context, b *bench) (string, error) {
	one, err := b.launch(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = one.Stop(true) }()
	two, err := b.launch(ctx)
	if err != nil {
		return "", fmt.Errorf("the second one, while the first one runs: %w", err)
	}
	defer func() { _ = two.Stop(true) }()
	for _, p := range []*pluginhost.Process{one, two} {
		if err := errors.Join(call(ctx, p, b.harmless(), nil), stillAlive(ctx, p)); err != nil {
			return "", err
		}
	}
	return "", nil
}

func checkMany(ctx context.Context, b *bench) (string, error) {
	p, err := b.process(ctx)
	if err != nil {
		return "", err
	}
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		wg.Go(func() { errs[i] = call(ctx, p, b.harmless(), nil) })
	}
	wg.Wait()
	return "", errors.Join(append(errs, stillAlive(ctx, p))...)
}
