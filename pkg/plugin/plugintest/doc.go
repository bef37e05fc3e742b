// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package plugintest holds the contract of a plugin as checks, and fakes to
// test against.
//
// [TestExecutor], [TestObserver] and [TestProvider] run every check on a value
// as subtests; [CheckExecutor] and its sisters run them without a testing.T
// and inside a testing/synctest bubble, where subtests are not allowed. The
// same checks run three ways: on the value itself, on the value behind real
// gRPC in memory ([Pipe]), and on an executable ([Start]).
//
// [World] is a node with guests that exists in memory only, with an executor
// and an observer that can be told to misbehave; [FakeProvider] publishes what
// a test wants. Time is package time's, so all of it runs in a bubble.
package plugintest
