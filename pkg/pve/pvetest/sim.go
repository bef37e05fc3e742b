// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/acl"
)

// pvedaemonWorkers is how many protected calls PVE serves at a time.
const pvedaemonWorkers = 3

// Sim is a simulated node. Create it with [New] inside the synctest bubble
// that uses it.
type Sim struct {
	opt    Options
	skew   atomic.Int64 // as opt.Skew, but it may change
	major  int
	log    *slog.Logger
	routes *routeTree
	boot   time.Time // node clock
	began  time.Time
	// statFrom is the instant of one status broadcast. mu guards it and boot.
	statFrom time.Time
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
	workers  chan struct{}

	lockWait time.Duration // for a guest's config lock
	// settleLate leaves it to others to notice that a task has ended.
	settleLate bool

	// mu guards what follows; it is never held across a wait.
	mu         sync.Mutex
	closed     bool
	rnd        *rand.Rand
	nextPID    int
	guests     map[int]*guestState
	flocks     map[string]*flock
	storages   []*storageState
	acl        *acl.Set
	tickets    map[string]ticket
	tasks      taskTable
	record     []Mutation
	faults     []*Fault
	noQuorum   bool
	elsewhere  map[int]place // guests on other nodes
	datacenter Datacenter
	versions   counters
	certPrint  string

	backupJobs   []BackupJob
	replications []ReplicationJob
}

// New starts a simulated node.
func New(opt Options) (*Sim, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, fmt.Errorf("pvetest: %w", err)
	}
	seed := opt.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	s := &Sim{
		opt: opt, major: opt.major(), log: opt.Log,
		workers: make(chan struct{}, pvedaemonWorkers),
		rnd:     rand.New(rand.NewPCG(seed, 1)), nextPID: 1000,
		guests: map[int]*guestState{}, flocks: map[string]*flock{},
		acl: opt.accounts(), tickets: map[string]ticket{},
		backupJobs: slices.Clone(opt.BackupJobs), replications: slices.Clone(opt.Replications),
	}
	s.skew.Store(int64(opt.Skew))
	s.began = s.now()
	s.boot = s.began.Add(-opt.Host.Uptime)
	s.statFrom = s.began.Add(opt.Host.StatPhase - broadcastEvery)
	routes := s.allRoutes()
	s.lockWait = lockWait
	s.mutate(routes)
	s.routes = newRouteTree(routes)
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.versions.start = s.began.Unix()
	s.initStorages()
	if err := s.addGuests(opt.Guests); err != nil {
		return nil, fmt.Errorf("pvetest: %w", err)
	}
	for _, st := range s.storages {
		st.began = st.taken()
	}
	for _, g := range s.guests {
		g.heard = broadcast{born: -1} // told long before
	}
	s.spawn(s.pvestatd)
	s.spawn(s.lrm)
	return s, nil
}

// Close ends every task, hook and guest and waits for them.
func (s *Sim) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

// Node returns the node's name.
func (s *Sim) Node() string { return s.opt.Node }

// Now returns the node's clock.
func (s *Sim) Now() time.Time { return s.now() }

func (s *Sim) now() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// SetSkew sets the node's clock, as somebody might in the middle of anything.
func (s *Sim) SetSkew(d time.Duration) { s.skew.Store(int64(d)) }

// allRoutes is the API; one function per area.
func (s *Sim) allRoutes() []route {
	var all []route
	for _, part := range [][]route{
		nodeRoutes(), clusterRoutes(), accessRoutes(), guestRoutes(), powerRoutes(),
		configRoutes(), taskRoutes(), storageRoutes(), lifeRoutes(), backupRoutes(), indexRoutes(), haRoutes(), placementRoutes(), bulkRoutes(),
		qemuRoutes(), snapshotRoutes(), cloneRoutes(), moveRoutes(), poolRoutes(), contentRoutes(), consoleRoutes(),
		jobRoutes(),
	} {
		all = append(all, part...)
	}
	return all
}

// spawn runs f on the Sim's own account; Close waits for it. It reports
// whether the Sim still runs.
func (s *Sim) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// scaled is a guest's duration at the Sim's speed.
func (s *Sim) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) / s.opt.Speed)
}

// pid returns the next process id. Needs mu.
func (s *Sim) pidLocked() int {
	s.nextPID += 1 + s.rnd.IntN(4)
	if s.nextPID > 4194000 {
		s.nextPID = 1000
	}
	return s.nextPID
}

// pvestatd does every ten seconds what PVE's status daemon does: it notices
// tasks that ended without anyone asking.
func (s *Sim) pvestatd() {
	for sleep(s.ctx, 10*time.Second) {
		s.mu.Lock()
		s.tasks.settle()
		s.mu.Unlock()
	}
}
