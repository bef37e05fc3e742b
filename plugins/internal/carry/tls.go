// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package carry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxPEM bounds a file of certificates.
const maxPEM = 1 << 20

// TLSSettings are the settings of a connection with TLS. The client's key is
// the secret client_key.
type TLSSettings struct {
	CAFile     string `json:"ca_file"`     // "" = the system's
	ServerName string `json:"server_name"` // "" = the one of the URL
	CertFile   string `json:"cert_file"`   // the client's, "" = none
}

// Config reads the files. An error names the setting.
func (s TLSSettings) Config(key plugin.Secret) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		pem, err := readFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: %s has no certificate", s.CAFile)
		}
	}
	if (s.CertFile == "") != (key.Reveal() == "") {
		return nil, errors.New("cert_file and the secret client_key go together")
	}
	if s.CertFile == "" {
		return c, nil
	}
	pem, err := readFile(s.CertFile)
	if err != nil {
		return nil, fmt.Errorf("cert_file: %w", err)
	}
	cert, err := tls.X509KeyPair(pem, []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("cert_file: %s and the secret client_key are not a pair (%w)", s.CertFile, err)
	}
	c.Certificates = []tls.Certificate{cert}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxPEM))
}

// Host is the name under which the agent is known: as set, or the host's
// short one.
func Host(set string) (string, error) {
	if set == "" {
		h, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("host: %w", err)
		}
		set, _, _ = strings.Cut(h, ".")
	}
	if !IsHost(set) {
		return "", fmt.Errorf("host: %.64q is not a host name of letters, digits and -", set)
	}
	return set, nil
}

// IsHost reports whether s is a short host name: it is a part of paths, keys
// and subjects.
func IsHost(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
	})
}
