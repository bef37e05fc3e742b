// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package python holds the kit for plugins in Python: felhom_plugin.py, which
// is what plugin.Serve is in Go, and felhom_plugin_pb.py, the messages of the
// protocol. Both lie beside a plugin's script, pinned like the script itself.
//
// The messages are made of the descriptors of package pluginpb; a test of this
// package fails when they differ, and writes them anew with -update.
package python

import _ "embed"

// Kit is felhom_plugin.py.
//
//go:embed felhom_plugin.py
var Kit []byte

// Messages is felhom_plugin_pb.py.
//
//go:embed felhom_plugin_pb.py
var Messages []byte

// The names of the two files.
const (
	KitName      = "felhom_plugin.py"
	MessagesName = "felhom_plugin_pb.py"
)
