// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package pluginhost runs the agent's plugins as processes of their own and
// keeps them from harming the agent or each other (promise P8).
//
// # Usage
//
// [New] makes a host, [Host.Set] says which plugins there should be, and
// [Host.Run] runs them until its context ends; it returns when all of them are
// gone. [Host.Executor] and [Host.Observer] return values that route each call
// to the process that serves it at that moment. Snapshots of providers and
// hints of observers arrive by the callbacks of [Options]. [ReadManifests]
// makes specs of the vendors' manifests.
//
// # Guarantees
//
// Nothing is executed that somebody else than the trusted users could have
// written, or whose sha256 is not the pinned one; what is executed is the
// descriptor that was checked. A plugin sees none of the agent's environment,
// its standard input is empty, and its secrets come over a connection on which
// both sides have proven who they are. It gets no descriptor of the agent's.
// It dies with the agent, also when the agent was killed.
//
// A plugin that crashes, hangs or cannot be started is started again with
// growing delays, and left alone (quarantine) when that happens too often.
// Stopping one takes a bounded time whatever it does, and whatever processes
// it has left behind. Its messages and log lines are bounded; what it prints
// cannot be taken for the agent's own words.
//
// # Obligations
//
// A call that ended with plugin.ErrShutdown may have had its effect: the
// process, not the call, is known to be gone. Only an error that is also
// plugin.ErrNotSent says otherwise. Callbacks return when their context ends.
//
// # Testing
//
// What supervises is tested in a testing/synctest bubble with plugins in
// memory; what deals with processes is tested with the test binary as the
// plugin.
package pluginhost
