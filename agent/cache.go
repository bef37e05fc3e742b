// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// maxCached bounds a provider's files in the cache; a snapshot is smaller, as
// its message's size is bounded.
const maxCached = 64 << 20

// fileCache keeps each provider's last good snapshot in a file of its own.
// Provider names are checked by the configuration: they are file names.
type fileCache struct {
	fs  fsys.FS
	dir string
}

func (c fileCache) path(provider string) string { return filepath.Join(c.dir, provider+".json") }

// Save replaces the provider's file; a crash leaves the old or the new one.
func (c fileCache) Save(provider string, s plugin.Snapshot) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := c.fs.MkdirAll("CACHE", c.dir, 0o700); err != nil {
		return err
	}
	return fsys.WriteFileAtomic(c.fs, "CACHE", c.path(provider), b, 0o600)
}

// Load reads the provider's file.
func (c fileCache) Load(provider string) (plugin.Snapshot, error) {
	var s plugin.Snapshot
	b, err := fsys.ReadFile(c.fs, "CACHE", c.path(provider), maxCached)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", c.path(provider), err)
	}
	return s, nil
}
