// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ErrPin is in the chain of an error when the server's public key is none of
// the pinned ones; its text names the key that was seen.
var ErrPin = errors.New("pve: the server's public key is not pinned")

// PinOf is the pin of a certificate's public key: "sha256:" and the base64 of
// the SHA-256 of its SubjectPublicKeyInfo. A certificate that is renewed with
// the same key has the same pin.
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + base64.StdEncoding.EncodeToString(sum[:])
}

// parsePin reads what PinOf writes, or the hash in hex, with or without the
// prefix and colons.
func parsePin(s string) ([]byte, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(s), "sha256:"), "SHA256:")
	sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil {
		sum, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("pve: pin %q: want sha256: and the base64 or hex of a SHA-256", s)
	}
	return sum, nil
}

// tlsConfig is the one way the server is verified.
func (o Options) tlsConfig(host string) (*tls.Config, error) {
	roots, err := o.roots()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		ServerName: o.ServerName,
		NextProtos: []string{"http/1.1"}, // PVE speaks nothing newer
	}
	if conf.ServerName == "" {
		conf.ServerName = host
	}
	if len(o.Pins) == 0 {
		return conf, nil
	}
	var pins [][]byte
	for _, p := range o.Pins {
		sum, err := parsePin(p)
		if err != nil {
			return nil, err
		}
		pins = append(pins, sum)
	}
	// With pins alone the pin is the whole check, and it is made below for
	// every connection; with a CA it comes on top of the usual one.
	conf.InsecureSkipVerify = roots == nil
	conf.VerifyConnection = func(s tls.ConnectionState) error { return checkPin(s, pins) }
	return conf, nil
}

// checkPin compares the key of the certificate that the server proved to own.
func checkPin(s tls.ConnectionState, pins [][]byte) error {
	if len(s.PeerCertificates) == 0 {
		return ErrPin
	}
	leaf := s.PeerCertificates[0]
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for _, p := range pins {
		if bytes.Equal(p, sum[:]) {
			return nil
		}
	}
	return fmt.Errorf("%w: it is %s", ErrPin, PinOf(leaf))
}
