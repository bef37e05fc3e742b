// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package pluginpb is the generated code of protocol felhom.plugin.v1. Plugin
// authors do not need it: package plugin translates to and from Go types.
//
// The generated files are committed, so that building needs no protoc. To
// write them anew after a change of a .proto file, with protoc 3.21,
// protoc-gen-go v1.36.12 and protoc-gen-go-grpc v1.6.2 in PATH:
//
//	go generate ./pkg/plugin/pluginpb
package pluginpb

//go:generate protoc -I felhom/plugin/v1=. --go_out=. --go_opt=module=github.com/felhom/felhom-agent/pkg/plugin/pluginpb --go-grpc_out=. --go-grpc_opt=module=github.com/felhom/felhom-agent/pkg/plugin/pluginpb felhom/plugin/v1/plugin.proto felhom/plugin/v1/executor.proto felhom/plugin/v1/observer.proto felhom/plugin/v1/provider.proto
