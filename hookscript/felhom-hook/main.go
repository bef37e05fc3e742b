// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command felhom-hook tells the agent that a guest is starting or stopping.
// The snippet runs it as
//
//	felhom-hook VMID PHASE
//
// while Proxmox VE waits, often with the guest's lock held. It guarantees
// promise P7: it spools the event, tells the agent of it and is gone, whatever
// the state of agent, spool and its own file descriptors. It waits for the
// agent, within its budget, only where the event cannot be spooled and before
// the start of a gated guest. It exits 0, but for a guest whose starts are gated (off
// unless an admin says so): a pre-start that the agent vetoes, or that no agent
// answers for while the guest is on the list of closed ones, ends with
// [hook.ExitVeto]. What went wrong is one line on stderr.
//
// It is started at every start and stop of every guest, so most of its time is
// the start of a Go process. Its imports are few on purpose: see
// TestFewImports.
package main

import (
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest/id"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// spoolTime is what of the budget is kept for spooling.
const spoolTime = 25 * time.Millisecond

const usage = "usage: felhom-hook [-socket PATH] [-spool DIR] [-closed DIR] [-budget MILLISECONDS] VMID PHASE"

func main() {
	start := time.Now()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = o.report(start)
	}
	if err != nil {
		complain(err)
	}
	os.Exit(exitStatus(o, err))
}

// exitStatus is a veto or 0. A veto is about a start alone.
func exitStatus(o options, err error) int {
	if o.phase != id.PreStart {
		return 0
	}
	var s *spooled
	var l *lost
	switch {
	case errors.Is(err, hook.ErrVeto):
		return hook.ExitVeto
	case (errors.As(err, &s) || errors.As(err, &l)) && o.isClosed():
		return hook.ExitVeto // nobody says that it may
	}
	return 0
}

// asks: the agent may have something against the start.
func (o options) asks() bool {
	return o.phase == id.PreStart && (o.isClosed() || hook.Gated(o.spool, o.vmid))
}

// isClosed reports whether the guest shall not start without the agent's word.
func (o options) isClosed() bool {
	var st syscall.Stat_t
	return syscall.Lstat(o.closed+"/"+o.vmid.String(), &st) == nil
}

// report hands the event over, to the agent or else to the spool.
func (o options) report(start time.Time) error {
	e := hook.New(o.vmid, o.phase, migratedFrom())
	if err := e.Validate(); err != nil {
		return err
	}
	if !o.asks() && hook.TrySpool(o.spool, e) == nil {
		if err := hook.Tell(o.socket, e); err != nil {
			return &spooled{err}
		}
		return nil
	}
	posted := hook.Post(o.socket, e, o.budget-spoolTime-time.Since(start))
	if posted == nil || errors.Is(posted, hook.ErrVeto) {
		return posted // the agent has the event
	}
	if err := hook.Spool(o.spool, e); err != nil {
		return &lost{posted, err}
	}
	return &spooled{posted}
}

// migratedFrom is where PVE says a starting virtual machine comes from. A
// value that is no node's name is nobody's name and is left out, so that the
// event itself is not lost with it.
func migratedFrom() string {
	node := os.Getenv("PVE_MIGRATED_FROM")
	if !hook.ValidNode(node) {
		return ""
	}
	return node
}

// spooled is an event that waits in the spool, lost one that does not.
type (
	spooled struct{ posted error }
	lost    struct{ posted, spooled error }
)

func (e *spooled) Error() string { return e.posted.Error() + "; the event is spooled" }
func (e *lost) Error() string    { return e.posted.Error() + "; " + e.spooled.Error() }

// complain writes one line by one system call. Package os would end the
// process by SIGPIPE where nobody reads stderr any more.
func complain(err error) {
	line := make([]byte, 0, 512)
	line = append(line, "felhom-hook: "...)
	for _, c := range []byte(err.Error()) {
		if c < ' ' {
			c = ' '
		}
		line = append(line, c)
	}
	_, _ = syscall.Write(2, append(line, '\n'))
}

// options are the command line.
type options struct {
	socket, spool string
	closed        string // directory of the guests that are closed
	budget        time.Duration
	vmid          id.VMID
	phase         id.Phase
}
