// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/plugintest"
	"github.com/felhom/felhom-agent/plugins/nats/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// configured makes a provider of a server.
func configured(t *testing.T, url, more string, secrets map[string]plugin.Secret) *Provider {
	t.Helper()
	p := New("1", quiet())
	js := fmt.Appendf(nil, `{"servers": [%q], "host": "pve1", "relist": "1s"%s}`, url, more)
	must(t, p.Configure(t.Context(), plugin.Config{JSON: js, Secrets: secrets}))
	t.Cleanup(p.Close)
	return p
}

const key = "pve1.desired"

func doc(n int) plugin.File {
	return plugin.File{Name: "a.toml", Data: fmt.Appendf(nil, "x = %d\n", n), Signatures: [][]byte{[]byte("signed\n")}}
}

// put returns the revision that it makes.
func put(t *testing.T, kv jetstream.KeyValue, n int) uint64 {
	t.Helper()
	must(t, natstest.Put(t.Context(), kv, key, doc(n)))
	entry, err := kv.Get(t.Context(), key)
	must(t, err)
	return entry.Revision()
}

// watch runs a watch; the snapshots come one by one.
func watch(t *testing.T, p *Provider) <-chan plugin.Snapshot {
	snaps := make(chan plugin.Snapshot)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Watch(ctx, func(s plugin.Snapshot) error {
			select {
			case snaps <- s:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return snaps
}

// until waits for a snapshot; those before it are let pass, but never one
// without files: that would be an empty set.
func until(t *testing.T, snaps <-chan plugin.Snapshot, what string, is func(plugin.Snapshot) bool) plugin.Snapshot {
	t.Helper()
	end := time.After(5 * time.Minute) // a busy machine
	for {
		select {
		case s := <-snaps:
			if is(s) {
				return s
			}
			if s.Err == "" && len(s.Files) == 0 {
				t.Fatalf("waiting for %s: an empty set", what)
			}
		case <-end:
			t.Fatalf("%s does not come", what)
		}
	}
}

func has(n int) func(plugin.Snapshot) bool {
	return func(s plugin.Snapshot) bool {
		return len(s.Files) == 1 && string(s.Files[0].Data) == string(doc(n).Data)
	}
}

func failed(what string) func(plugin.Snapshot) bool {
	return func(s plugin.Snapshot) bool { return strings.Contains(s.Err, what) }
}

func TestContract(t *testing.T) {
	s := natstest.Start(t, "")
	kv := s.Fleet(s.JetStream())
	for _, way := range []string{"direct", "pipe"} {
		t.Run(way, func(t *testing.T) {
			put(t, kv, 0)
			driver := configured(t, s.URL(), "", nil)
			var p plugin.Provider = driver
			if way == "pipe" {
				p = plugintest.Pipe(t, plugin.Set{Provider: driver}).Provider()
			}
			// The contract asks at once; a client that connects takes a moment.
			until(t, watch(t, driver), "the set", has(0))
			var n atomic.Int64
			plugintest.TestProvider(t, plugintest.ProviderCase{Provider: p, Change: func() { put(t, kv, int(n.Add(1))) }})
		})
	}
}

func TestConfigure(t *testing.T) {
	for more, want := range map[string]string{
		``: "",
		`, "servers": ["tls://a:4222", "tls://b"]`:            "",
		`, "servers": []`:                                     "servers",
		`, "servers": ["http://a"]`:                           "servers",
		`, "servers": ["nats://u:geheim@a"]`:                  "servers",
		`, "servers": ["nats://10.0.0.1"]`:                    "not encrypted",
		`, "servers": ["nats://10.0.0.1"], "plaintext": true`: "",
		`, "bucket": "a.b"`:                                   "bucket",
		`, "set": ""`:                                         "set",
		`, "subject": "a.>"`:                                  "subject",
		`, "subject": "-"`:                                    "",
		`, "relist": "1h"`:                                    "relist",
		`, "host": "a.b"`:                                     "host",
		`, "ca_file": "/nowhere"`:                             "ca_file",
		`, "sever": "x"`:                                      "sever",
	} {
		err := New("1", quiet()).Configure(t.Context(), plugin.Config{JSON: []byte(`{"servers": ["nats://127.0.0.1"]` + more + `}`)})
		if (want == "") != (err == nil) || err != nil && (!errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("%s: %v", more, err)
		}
	}
	for name, want := range map[string]string{"nkey": "nkey", "creds": "creds", "password": "password"} {
		err := New("1", quiet()).Configure(t.Context(), plugin.Config{
			JSON: []byte(`{"servers": ["nats://127.0.0.1"]}`), Secrets: map[string]plugin.Secret{name: "geheim"},
		})
		if !errors.Is(err, plugin.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("secret %s: %v", name, err)
		}
	}
	if err := New("1", quiet()).Watch(t.Context(), nil); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("Watch without a configuration: %v", err)
	}
}

// The server is restarted, cut off and wiped, the key is deleted and spoilt:
// each is an error, and the set is there again when its cause is gone.
func TestWhatMayHappenToAServer(t *testing.T) {
	s := natstest.Start(t, "")
	js := s.JetStream()
	kv := s.Fleet(js)
	proxy := natstest.NewProxy(t, s.Addr())
	snaps := watch(t, configured(t, proxy.URL(), "", nil))
	until(t, snaps, "a missing key", failed("has no key pve1.desired"))
	put(t, kv, 1)
	got := until(t, snaps, "the first", has(1))
	if len(got.Files[0].Signatures) != 1 || string(got.Files[0].Signatures[0]) != "signed\n" {
		t.Errorf("signatures %q", got.Files[0].Signatures)
	}
	put(t, kv, 2)
	until(t, snaps, "the second", has(2))

	s.Restart()
	s.Fleet(js)
	put(t, kv, 3)
	until(t, snaps, "what was put after a restart", has(3))

	proxy.Cut()
	until(t, snaps, "cut off", failed("not connected"))
	put(t, kv, 4)
	proxy.Heal()
	until(t, snaps, "what was put while it was cut off", has(4))

	must(t, kv.Delete(t.Context(), key))
	until(t, snaps, "deleted", failed("has no key"))
	put(t, kv, 5)
	until(t, snaps, "put again", has(5))
	_, err := kv.Put(t.Context(), key, []byte("{"))
	must(t, err)
	until(t, snaps, "spoilt", failed("not in its form"))

	s.Wipe()
	until(t, snaps, "wiped", func(s plugin.Snapshot) bool { return s.Err != "" && !strings.Contains(s.Err, "not in its form") })
	kv = s.Fleet(js)
	put(t, kv, 6)
	until(t, snaps, "what was put after a wipe", has(6))
	must(t, natstest.Put(t.Context(), kv, key))
	until(t, snaps, "on purpose nothing", func(s plugin.Snapshot) bool { return s.Err == "" && len(s.Files) == 0 })
}

// lagging is a bucket as a replica has it that missed all after this revision.
type lagging struct {
	jetstream.KeyValue
	at uint64
}

func (l lagging) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	return l.GetRevision(ctx, key, l.at)
}

// TestReplicaThatLags: an older set is not given again, whether the newer one was
// read or a watch told of it.
func TestReplicaThatLags(t *testing.T) {
	s := natstest.Start(t, "")
	var kv jetstream.KeyValue
	retry(t, func() (err error) {
		kv, err = s.JetStream().CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "felhom", History: 8})
		return err
	})
	p := configured(t, s.URL(), "", nil)
	conf, _, err := p.stream()
	must(t, err)
	read := func(kv jetstream.KeyValue) (plugin.Snapshot, error) { return p.value(t.Context(), conf, kv) }
	refused := func(at uint64) {
		t.Helper()
		if _, err := read(lagging{kv, at}); err == nil || !strings.Contains(err.Error(), "is older than revision") {
			t.Errorf("the replica's older set: %v", err)
		}
	}
	given := func(n int) {
		t.Helper()
		if snap, err := read(kv); err != nil || !has(n)(snap) {
			t.Errorf("set %d: %+v, %v", n, snap, err)
		}
	}
	first := put(t, kv, 1)
	given(1)
	second := put(t, kv, 2)
	given(2)
	refused(first)
	given(2)
	p.newest.heard(put(t, kv, 3))
	refused(second)
	given(3)
}

func TestServerThatIsAway(t *testing.T) {
	p := configured(t, fmt.Sprintf("nats://127.0.0.1:%d", natstest.FreePort(t)), "", nil)
	until(t, watch(t, p), "an error", failed("not connected"))
	if err := p.Report(t.Context(), plugin.Report{JSON: []byte("{}")}); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("report: %v", err)
	}
}

// What was acknowledged is in the stream, after a restart too; what was not is
// an error; what is sent again is there once.
func TestReports(t *testing.T) {
	s := natstest.Start(t, "")
	js := s.JetStream()
	put(t, s.Fleet(js), 1)
	p := configured(t, s.URL(), "", nil)
	until(t, watch(t, p), "the set", has(1))
	report := func(n uint64) error {
		body, err := json.Marshal(plugin.ReportBody{Host: "pve1", Outcomes: []plugin.ReportOutcome{{Seq: n, Op: fmt.Sprint("op", n)}}})
		must(t, err)
		return p.Report(t.Context(), plugin.Report{Time: time.Now(), JSON: body})
	}
	must(t, report(1))
	must(t, report(2))
	must(t, report(2))
	s.Down()
	if err := report(3); !errors.Is(err, plugin.ErrUnavailable) {
		t.Errorf("a report to nobody: %v", err)
	}
	s.Up()
	retry(t, func() error { return report(3) })
	retry(t, func() error { return stored(t, js, "op1", "op2", "op3") })
	if err := configured(t, s.URL(), `, "subject": "-"`, nil).Report(t.Context(), plugin.Report{}); err == nil {
		t.Error("a report that nobody wants")
	}
	// One that the server or the stream never takes is not tried for ever.
	large, err := json.Marshal(strings.Repeat("x", 9<<20))
	must(t, err)
	retry(t, func() error { return report(3) })
	if err := p.Report(t.Context(), plugin.Report{JSON: large}); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("a report that is too large for the server: %v", err)
	}
	st, err := js.Stream(t.Context(), "felhom-reports")
	must(t, err)
	small := st.CachedInfo().Config
	small.MaxMsgSize = 1 << 20
	_, err = js.UpdateStream(t.Context(), small)
	must(t, err)
	if err := p.Report(t.Context(), plugin.Report{JSON: large[:2<<20]}); !errors.Is(err, plugin.ErrInvalid) {
		t.Errorf("a report that is too large for the stream: %v", err)
	}
	other := configured(t, s.URL(), `, "subject": "elsewhere"`, nil)
	retry(t, func() error {
		if err := other.Report(t.Context(), plugin.Report{JSON: []byte("{}")}); !strings.Contains(fmt.Sprint(err), "no response from stream") {
			return fmt.Errorf("a report that no stream takes: %w", err)
		}
		return nil
	})
}

func retry(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) { // another process: no event
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// stored compares what the stream has.
func stored(t *testing.T, js jetstream.JetStream, want ...string) error {
	st, err := js.Stream(t.Context(), "felhom-reports")
	if err != nil {
		return err
	}
	info, err := st.Info(t.Context())
	if err != nil {
		return err
	}
	var got []string
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := st.GetMsg(t.Context(), seq)
		if err != nil {
			return err
		}
		var b plugin.ReportBody
		if err := json.Unmarshal(m.Data, &b); err != nil {
			return err
		}
		got = append(got, b.Outcomes[0].Op)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("the stream has %v, want %v", got, want)
	}
	return nil
}

// An NKey over TLS; a stranger's key and a stranger's server are refused.
func TestNKeyOverTLS(t *testing.T) {
	dir := t.TempDir()
	cert, privateKey := selfSigned(t, dir)
	pair, err := nkeys.CreateUser()
	must(t, err)
	public, err := pair.PublicKey()
	must(t, err)
	seed, err := pair.Seed()
	must(t, err)
	s := natstest.Start(t, fmt.Sprintf("tls { cert_file: %q, key_file: %q }\nauthorization { users = [ { nkey: %s } ] }", cert, privateKey, public))
	url := "tls://" + s.Addr()
	ca := fmt.Sprintf(`, "ca_file": %q`, cert)

	good := configured(t, url, ca, map[string]plugin.Secret{"nkey": plugin.Secret(seed) + "\n"})
	until(t, watch(t, good), "an answer", failed("bucket"))
	other, err := nkeys.CreateUser()
	must(t, err)
	otherSeed, err := other.Seed()
	must(t, err)
	stranger := configured(t, url, ca, map[string]plugin.Secret{"nkey": plugin.Secret(otherSeed)})
	got := until(t, watch(t, stranger), "a refusal", failed("uthorization"))
	if strings.Contains(got.Err, string(otherSeed)) {
		t.Errorf("the seed is in %q", got.Err)
	}
	unknown := configured(t, url, "", map[string]plugin.Secret{"nkey": plugin.Secret(seed)})
	until(t, watch(t, unknown), "an unknown authority", failed("x509"))
}

func selfSigned(t *testing.T, dir string) (cert, privateKey string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	must(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	must(t, err)
	cert, privateKey = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(privateKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return cert, privateKey
}
