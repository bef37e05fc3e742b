// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package identity decides whether a guest is the one that was known under its
// VMID (promise P5: a guest is not its VMID).
//
// Two things speak for it. [Evidence] is what its config holds that was
// generated or is hard to repeat. [Continuity] is that nothing happened to the
// VMID since: no task of somebody else made, restored or deleted a guest of
// that VMID, and it was never away. [Judge] weighs both, and what ops of ours
// were to change ([Changes]).
//
// The package is pure: no clock, no files, no goroutine; the same arguments
// give the same verdict.
//
// # What is evidence
//
// Hard evidence is made at random: the uuid in a VM's smbios1, and the hardware
// addresses of its and a container's interfaces. Loose evidence are the ids of
// the volumes. The ctime in a VM's meta is a third kind. A guest that lost any
// of it without an explanation is not the same any more, but what was kept
// weighs differently, as recorded on real nodes:
//
//   - hard evidence says by itself that it is not quite another guest;
//   - a guest made anew gets the very volume ids that the deleted one had
//     (vm-875-disk-0 again), so they say so only while continuity is unbroken;
//   - a clone has the ctime of its source, so it says nothing.
//
// Left out, and why:
//
//   - vmgenid is there to change: a rollback renews it on the same guest.
//   - The digest and the times of the config file change with every edit;
//     names, tags, description, sizes and ostype are settings, and are the same
//     for whoever asks for the same. A stamp in tags or description is copied
//     by a clone and taken away by a rollback.
//   - Discs in CD-ROM drives, paths of the host and cloud-init drives: no
//     guest's own, or named after the VMID.
//
// # What cannot be told apart
//
//   - A container made anew with explicit hardware addresses, or restored from
//     its own backup after it was deleted, has the config it had to the byte,
//     and a VM may be given its old uuid and addresses (then its ctime tells,
//     to the second). Only continuity shows it.
//   - So where continuity is not known (the agent was away longer than PVE's
//     task list reaches back, or its token lacks Sys.Audit on the node and sees
//     no tasks but its own) the verdict is never [Same], whatever the config
//     says.
//   - A clone into the VMID has its task under the VMID of its source. It shows
//     by what made the VMID free before, and by its addresses, which are new in
//     every clone.
//   - A config that root moved away and back, or exchanged for another, by hand
//     leaves no task. If no look fell in between, only evidence is left: a
//     copy of the same config over other data is taken for the same guest.
//   - What was restored or changed inside the volumes does not show at all: a
//     guest rolled back by somebody is the same guest.
//   - A guest without interfaces, and without a uuid, has no hard evidence; a
//     container of that kind is known by continuity and by loose evidence.
//   - Tasks have their times in whole seconds. A deletion or restore in the
//     second of the sighting counts as later; a creation as earlier.
//   - Whoever holds root or our own token can forge all of it.
//
// # How to use it
//
// At each look: read config and tasks (from the second of `since`). c :=
// [ContinuityOf] of them, [Continuity.Join] what the journal carries, add to
// c.Gone and c.Doubts what else is known; then [Judge]. If c is
// [Continuity.Broken] and says something new, journal it: PVE's task list
// forgets. Move `since` only to the time of a look that was not [Unsteady] and
// whose tasks are known; an older `since` is never wrong, so long as the task
// list reaches back to it and `own` still knows our ops of that time.
//
// Record the evidence that is seen, and drop the explanations of ops that have
// ended, when the verdict is [Same]; and where it is [Unsure] because none was
// recorded yet. With the operator's accept record the evidence, which must not
// be zero, and begin a new continuity and `since`: the accept is for what was
// seen, so compare it with [Evidence.Equal] once more.
package identity
