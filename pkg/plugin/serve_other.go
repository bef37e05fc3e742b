// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package plugin

// protectStdout does nothing where plugins are only developed, not run.
func protectStdout() error { return nil }

func nameProcess(string) {}
