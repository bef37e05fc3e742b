// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package pvetest simulates a Proxmox VE node for tests and demonstrations:
// the HTTP API with tokens and privileges, guests whose config is read back
// as PVE would print it, the guest's config lock, tasks with UPIDs,
// hookscripts that are really executed, and faults on demand. What real nodes
// were recorded to answer (package replay), and which hooks they were recorded
// to run (package hooktable), decides how it behaves.
//
// A [Sim] is an [http.Handler]. In a test it is used through [Sim.Pipe], or
// with the client of package pve through package wire; both are in memory and
// so work inside a testing/synctest bubble, where hours pass in milliseconds.
// The command pvesim serves the same Sim over TLS.
//
// Guarantees: every wait is on a timer or a channel, never on a mutex, so
// simulated time moves; no state is shared between two Sims; [Sim.Close]
// returns when every goroutine of the Sim has ended; [Sim.Record] lists every
// mutation that took effect, once.
//
// The layout, for whoever adds to it: one file of routes per area of the API
// (routes_*.go, each returning its part of the route table), the life of a
// container and of a virtual machine (lxc.go, qemu.go), tasks (task.go), the
// guest's lock (flock.go), hooks (hook.go), the making, copying and moving of
// guests and their volumes (ctcreate.go, qemucreate.go, clone.go, template.go,
// snapshot.go, move.go, image.go), backups (vzdump*.go), faults (fault.go), the
// operator at the node's command line (operator.go). Packages below internal/
// are pure: acl (who may), schema (parameter checks), conf (config files).
package pvetest
