// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package conf is the model of how PVE 8 and 9 treat a guest's configuration:
// the file it is kept in, what the API shows of it, and what becomes of a
// write, for containers and virtual machines.
//
// It is pure: no HTTP, clock, file or goroutine. What the node knows (storages,
// volumes, bridges, datacenter options, randomness) comes in through [Env];
// what the node must do besides storing the config (allocate or free a volume)
// comes out as [Effect]s. A [Guest] is never modified: Put and Edit return a
// new one, or the very same if nothing was written.
//
// It holds rules only, no recorded answer. Its test replays every recorded
// write of both nodes and says how many come out the same.
package conf
