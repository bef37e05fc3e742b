// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve"
)

func (o Options) copyCA() Step {
	from := filepath.Join(o.PVE, "pve-root-ca.pem")
	return Step{What: "copy " + from + " to " + o.CAFile(), Do: func(context.Context) error {
		_, err := o.refreshCA()
		return err
	}}
}

// refreshCA copies the cluster's CA, and says whether it was another.
func (o Options) refreshCA() (changed bool, err error) {
	b, err := readFile(filepath.Join(o.PVE, "pve-root-ca.pem"))
	if err != nil {
		return false, fmt.Errorf("the cluster's CA: %w", err)
	}
	if _, err := parseCert(b); err != nil {
		return false, fmt.Errorf("the cluster's CA: %w", err)
	}
	if old, err := readFile(o.CAFile()); err == nil && bytes.Equal(old, b) {
		return false, nil
	}
	return true, writeFile(o.CAFile(), b, 0o644)
}

// Custom is a certificate of the admin's own, which the node shows instead of
// the one of the cluster's CA.
type Custom struct {
	Pin      string    `json:"pin"`
	NotAfter time.Time `json:"not_after"`
}

// CustomCert looks for such a certificate; nil if there is none.
func (o Options) CustomCert() (*Custom, error) {
	path := filepath.Join(o.PVE, "local", "pveproxy-ssl.pem")
	b, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cert, err := parseCert(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Custom{Pin: pve.PinOf(cert), NotAfter: cert.NotAfter}, nil
}

// Refresh copies what a change of certificates changes, and says in words what
// was done and what is left to do.
func (o Options) Refresh(pins []string) ([]string, error) {
	changed, err := o.refreshCA()
	if err != nil {
		return nil, err
	}
	out := []string{o.CAFile() + " is up to date"}
	if changed {
		out = []string{o.CAFile() + " was replaced; `systemctl restart felhom-agent` takes it"}
	}
	custom, err := o.CustomCert()
	if err != nil || custom == nil {
		return out, err
	}
	for _, p := range pins {
		if p == custom.Pin {
			return append(out, "the node's own certificate is pinned ("+custom.Pin+")"), nil
		}
	}
	return append(out, "the node shows a certificate of its own, which is not pinned; add to [pve] pins and leave the old one until it is replaced: "+custom.Pin), nil
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// maxFile bounds what is read.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// writeFile replaces a file by rename; the new one has its mode from the start.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	err = f.Chmod(mode) // past the umask, before anything is in it
	if err == nil {
		_, err = f.Write(content)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
