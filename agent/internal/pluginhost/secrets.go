// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxSecret bounds a secret, in bytes.
const maxSecret = 64 << 10

// readSecret reads a secret. One newline at its end is not part of it. Errors
// never hold a part of the value.
func readSecret(src SecretSource, o Options) (plugin.Secret, error) {
	path := src.File
	if src.Credential != "" {
		if o.CredentialsDir == "" {
			return "", refuse("add LoadCredential= to the agent's unit", "credential %q: systemd gave the agent no credentials", src.Credential)
		}
		if !filepath.IsLocal(src.Credential) || strings.Contains(src.Credential, "/") {
			return "", refuse("correct the name", "%q is not the name of a credential", src.Credential)
		}
		path = filepath.Join(o.CredentialsDir, src.Credential)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would be waited for
	if err != nil {
		return "", refuse("make it readable for the agent, and for nobody else", "%v", err)
	}
	defer f.Close()
	return readSecretFile(f)
}

func readSecretFile(f *os.File) (plugin.Secret, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", refuse("name a regular file", "%s is not a regular file", f.Name())
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", refuse("chmod o= "+quote(f.Name()), "%s is open to every user (mode %04o)", f.Name(), info.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", f.Name(), errors.Unwrap(err))
	}
	if len(b) > maxSecret {
		return "", refuse("use a smaller file", "%s has more than %d KiB", f.Name(), maxSecret>>10)
	}
	return plugin.Secret(strings.TrimSuffix(string(b), "\n")), nil
}
