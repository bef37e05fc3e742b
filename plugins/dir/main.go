// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command dir is the plugin that provides the desired state from a directory
// of TOML and JSON files. The agent starts it; its configuration is Settings.
//
// It guarantees that a snapshot holds the whole directory as it was at one
// moment: a file that cannot be taken makes the snapshot an error, never a
// snapshot without that file. A directory that is missing, unreadable or
// replaced by an empty one is an error too; only a directory that was emptied
// is an empty snapshot.
package main

import (
	"os"
	"runtime/debug"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// version is set by the linker; without that it is the module's.
var version string

func main() {
	plugin.Serve(plugin.Set{Provider: New(buildVersion(), plugin.NewLogger(os.Stderr))})
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
