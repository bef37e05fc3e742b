// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/op"
	"github.com/felhom/felhom-agent/agent/internal/plan"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
)

// attempt is the last thing carried out for a guest.
type attempt struct {
	op     string // whose it is
	print  string
	config guest.Config // as it was seen before
	start  time.Time    // of our last start
	// before is the one before; counted, that it was counted as a failure when
	// this one was made.
	before  *attempt
	counted bool
	vain    vain
}

// vain are the attempts made since that came to nothing, all at the same.
type vain struct {
	print string
	n     int
	until time.Time // the next one may be made
}

// next is an op's attempt after this one.
func (a attempt) next(s sighting, o *op.Op, act plan.Action) attempt {
	before := a
	before.before = nil
	return attempt{op: o.ID, print: printOf(act), config: s.obs.Config, start: a.start, before: &before}
}

// weather says why the same is not tried yet, after it came to nothing. Hints
// do not shorten it: a task of ours that met a lock makes some itself.
func (a attempt) weather(print string, now time.Time) (why string, wait time.Duration) {
	if a.vain.print != print || !now.Before(a.vain.until) {
		return "", 0
	}
	return "the last attempt came to nothing, the next one is at " + clock(a.vain.until), a.vain.until.Sub(now)
}

// takeBack forgets an op's attempt that came to nothing, as on a guest that was
// locked: it is no failure if the same is planned again. With sent unset it was
// not even begun.
func (e *Engine) takeBack(o *op.Op, sent bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.last[o.Guest.VMID]
	if a.op != o.ID || a.before == nil {
		return
	}
	back := *a.before
	if a.counted { // which is once and for all
		back.print = ""
		if o.Kind == plugin.Start {
			back.start = time.Time{}
		}
	}
	if sent {
		back.vain = back.vain.again(a.print)
	}
	e.last[o.Guest.VMID] = back
}

func (v vain) again(print string) vain {
	if v.print != print {
		v = vain{print: print}
	}
	wait := min(minWait<<v.n, maxWait)
	if wait < maxWait {
		v.n++
	}
	v.until = time.Now().Add(wait)
	return v
}

// printOf tells two actions apart.
func printOf(a plan.Action) string {
	parts := []string{string(a.Kind)}
	for _, k := range sorted(a.Set) {
		parts = append(parts, k+"="+a.Set[k])
	}
	return strings.Join(append(parts, a.Delete...), "\x00")
}
