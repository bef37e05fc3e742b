// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package engine is the loop: it takes in hook events, desired state, hints
// and operator commands, looks at guests one at a time, and carries out what
// the planner says, in the order intent (on disk), effect, outcome (on disk).
//
// Every way in ends in the queue: a hook event, a hint, a changed document or
// a resync says "look at guest 101" and such looks collapse; an operator's op
// is an item of its own and keeps its place. Every way out starts in the one
// handler of a guest's lane, so that at most one mutation per guest is in
// flight (P2).
//
// Guarantees: no executor is called before the intent is synced, and nobody
// is told of an outcome before it is synced (P3). Without desired state
// nothing is changed (P1). After a crash an op that was in flight is settled,
// by its handle or by a probe, before anything else happens to its guest.
// An "OK" is a claim: after every action and every error the guest is looked
// at again.
//
// Obligations: [Engine.Event] returns once the event is synced and never
// waits for a lane. Run must be called once.
//
// Testing: the engine declares the interfaces it needs; tests hand in the
// simulator's node or scripted fakes, and run in testing/synctest bubbles.
package engine
