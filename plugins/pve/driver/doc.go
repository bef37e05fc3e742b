// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package driver acts on the guests of one Proxmox VE node, and observes them,
// through the node's API: it is the executor and the observer of the first
// party plugin "pve".
//
// It guarantees that
//
//   - an action goes to PVE at most once per op id and attempt, not while the
//     guest is locked, and never later than shortly after Apply was called, so
//     that the time in which a lost sending may still take effect is bounded;
//   - a config is written only after it was read, and with the digest the plan
//     rests on;
//   - a guest is made only where nobody has the VMID, which is proven right
//     before, and one that turns up all the same is left alone;
//   - a guest is deleted only after a write with the digest that was approved
//     was taken and the guest was found unchanged since (see [Driver.Apply] and
//     destroy.go): a guest that took its place is not;
//   - what is deleted of a guest is the guest's own, and nothing names it;
//   - PVE's answers become the closed set of outcomes, a refusal that may have
//     changed something is "failed", and what cannot be known is "unknown";
//   - a lost outcome is settled on evidence only (see [Driver.Probe]), and a
//     guest counts as gone only on proof (see [Driver.Guest]);
//   - the values of secret keys are in no message.
//
// It keeps no state that matters: another process can go on with a handle.
package driver
