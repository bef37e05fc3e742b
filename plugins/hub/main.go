// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command hub is the plugin that gets the desired state from a hub over HTTPS
// and reports to it. The agent starts it; its configuration is driver.Settings.
package main

import (
	"os"
	"runtime/debug"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/hub/driver"
)

// version is set by the linker; without that it is the module's.
var version string

func main() {
	plugin.Serve(plugin.Set{Provider: driver.New(buildVersion(), plugin.NewLogger(os.Stderr))})
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
