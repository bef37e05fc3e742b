// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package plugin is the contract between felhom-agent and its plugins, and
// the kit to write one in Go.
//
// There are three kinds of plugin, each one small interface: an [Executor]
// carries out actions on guests, an [Observer] tells what is there, and a
// [Provider] carries desired state. A plugin's whole main is a call of
// [Serve]. The wire is gRPC over HashiCorp's go-plugin, protocol
// felhom.plugin.v1; PROTOCOL.md beside this file has its rules.
//
// The package guarantees that contexts and their deadlines cross the wire,
// that the error kinds of errors.go survive it (errors.Is holds on both
// sides), and that a dead plugin process reads as [ErrShutdown].
package plugin
