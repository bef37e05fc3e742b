// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdHub starts the reference hub for this host: its sets are in hub/sets/HOST
// (the variable HUBSETS), the reports in hub/reports/HOST.jsonl (HUBREPORTS).
func cmdHub(ts *testscript.TestScript, neg bool, args []string) {
	host := shortHost()
	const token = "geheim-geheim-geheim"
	for _, d := range []string{"hub/sets/" + host, "hub/reports"} {
		ts.Check(os.MkdirAll(ts.MkAbs(d), 0o700))
	}
	if read(ts, "hub/cert.pem") == "" {
		cert, key := selfSigned(ts)
		ts.Check(os.WriteFile(ts.MkAbs("hub/cert.pem"), cert, 0o600))
		ts.Check(os.WriteFile(ts.MkAbs("hub/key.pem"), key, 0o600))
		ts.Check(os.WriteFile(ts.MkAbs("hub/tokens"), []byte(host+" "+token+"\n"), 0o600))
		ts.Check(os.WriteFile(ts.MkAbs("hub/token"), []byte(token+"\n"), 0o600))
	}
	listen := lastingAddr(ts)
	if url, again := strings.CutPrefix(read(ts, "hub/url"), "https://"); again {
		listen = url
	}
	background(ts, "hub", []string{
		"refhub", "-listen", listen, "-url", ts.MkAbs("hub/url"), "-cert", ts.MkAbs("hub/cert.pem"), "-key", ts.MkAbs("hub/key.pem"),
		"-tokens", ts.MkAbs("hub/tokens"), "-sets", ts.MkAbs("hub/sets"), "-reports", ts.MkAbs("hub/reports"),
	})
	retry(ts, "test", "-s", ts.MkAbs("hub/url"))
	ts.Setenv("HUBSETS", ts.MkAbs("hub/sets/"+host))
	ts.Setenv("HUBREPORTS", ts.MkAbs("hub/reports/"+host+".jsonl"))
	ts.Setenv("HUBURL", read(ts, "hub/url"))
}

// lastingAddr is an address for a server that is to come back to it. Its port is
// none of those that the kernel gives to whoever does not ask for one: such a port
// may be another connection's while the server is away.
func lastingAddr(ts *testscript.TestScript) string {
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+mrand.IntN(20_000))
		ln, err := net.Listen("tcp", addr)
		if err == nil {
			_ = ln.Close()
			return addr
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			ts.Fatalf("listen: %v", err)
		}
	}
}

func selfSigned(ts *testscript.TestScript) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	ts.Check(err)
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	ts.Check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}
