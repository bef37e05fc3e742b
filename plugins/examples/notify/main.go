// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command notify is an example of a vendor's executor: its one action kind,
// acme.notify, tells people something about a guest, by a line in a file or by
// a POST to a webhook.
//
// It guarantees that one op id and attempt is delivered once as far as that can
// be known: what was begun and what was done is on disk before and after each
// delivery, shared by every process of the plugin. A delivery that was begun
// and whose end was lost is looked up in the file; a webhook cannot be looked
// up, so it ends as unknown unless the receiver is said to drop a repeated
// Idempotency-Key.
package main

import (
	"runtime/debug"

	"github.com/felhom/felhom-agent/pkg/plugin"
)

// version is set by the linker; without that it is the module's.
var version string

func main() {
	plugin.Serve(plugin.Set{Executor: &notifier{version: buildVersion()}})
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); version == "" && ok {
		return info.Main.Version
	}
	return version
}
