// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command pve is the plugin that acts on the guests of a Proxmox VE node, and
// observes them. The agent starts it; its configuration is driver.Config.
package main

import (
	"runtime/debug"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/pve/driver"
)

// version is set by the linker; without that it is the module's.
var version string

func main() {
	d := &driver.Driver{Version: buildVersion()}
	plugin.Serve(plugin.Set{Executor: d, Observer: d, Configurer: d})
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
