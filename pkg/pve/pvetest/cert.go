// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// Certificates are a cluster's CA and a node's certificate signed by it.
type Certificates struct {
	CA   []byte // PEM, what a client verifies with
	Cert []byte // PEM of the node
	Key  []byte // PEM of the node's private key
	TLS  tls.Certificate
}

// NewCertificates makes a CA and a certificate for a node with the names PVE
// gives it (node, localhost, the loopback addresses) and further addresses.
func NewCertificates(node string, addrs ...net.IP) (*Certificates, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0), IsCA: true,
		Subject:               pkix.Name{CommonName: "Proxmox Virtual Environment", Organization: []string{"PVE Cluster Manager CA"}},
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("sign CA: %w", err)
	}
	return leaf(node, addrs, ca, caDER, caKey)
}

func leaf(node string, addrs []net.IP, ca *x509.Certificate, caDER []byte, caKey *ecdsa.PrivateKey) (*Certificates, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: ca.NotBefore, NotAfter: time.Now().AddDate(2, 0, 0),
		Subject:  pkix.Name{CommonName: node + ".local", Organization: []string{"Proxmox Virtual Environment"}},
		DNSNames: []string{"localhost", node}, IPAddresses: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, addrs...),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	c := &Certificates{
		CA:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}
	c.TLS, err = tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("pair key and certificate: %w", err)
	}
	return c, nil
}

// Fingerprint is the SHA-256 of the node's certificate as PVE prints it.
func (c *Certificates) Fingerprint() string {
	sum := sha256.Sum256(c.TLS.Certificate[0])
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

// SetFingerprint is what GET /nodes tells of the certificate in use.
func (s *Sim) SetFingerprint(fp string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certPrint = fp
}

// fingerprint needs mu.
func (s *Sim) fingerprint() string { return either2(s.certPrint, strings.Repeat("00:", 31)+"00") }
