// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// identity is how the host proves to one plugin process who it is: made for
// that process, and forgotten with it.
type identity struct {
	cert tls.Certificate
	pem  []byte // the certificate, as the plugin is given it
}

// newIdentity makes one with a P-256 key. go-plugin's own would have P-521,
// which costs most of a plugin's start, and which BoringSSL, and so grpcio as
// PyPI has it, does not take in a handshake.
func newIdentity() (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("a key for the connection to the plugin: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("a certificate for the connection to the plugin: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost", Organization: []string{"felhom-agent"}}, DNSNames: []string{"localhost"},
		SerialNumber: serial, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(30, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IsCA:        true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("a certificate for the connection to the plugin: %w", err)
	}
	return &identity{
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}, nil
}

// config is for the connection; go-plugin puts the plugin's certificate in as
// the only root when it has read the handshake line.
func (i *identity) config() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{i.cert}, MinVersion: tls.VersionTLS12, ServerName: "localhost"}
}

// env is what the plugin finds.
func (i *identity) env() string { return "PLUGIN_CLIENT_CERT=" + string(i.pem) }
