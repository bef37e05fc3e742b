// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/felhom/felhom-agent/agent/internal/fsys/fault"
)

// TestTortureJournalWriters has several writers share batches and the machine stop at a random call, with compactions
// in the background. What each writer knows to be there must be there, in its order.
func TestTortureJournalWriters(t *testing.T) {
	rounds := 30
	if full() {
		rounds = 3000
	}
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	var v verdict
	for range rounds {
		writersRound(t, &v, random)
	}
	v.print("many writers, random")
	for _, text := range v.texts {
		t.Errorf("seed %d: %s", seed, text)
	}
}

const writers, perWriter = 8, 12

func writersRound(t *testing.T, v *verdict, random *rand.Rand) {
	f := fault.New()
	o := options(f, &texts{})
	o.SegmentBytes, o.CompactBytes, o.Keep = 2000, 5000, -1
	stop := random.IntN(300)
	moment := fault.Moment(1 + random.IntN(2))
	f.Inject(func(c fault.Call) fault.Action {
		if c.N == stop {
			return fault.Action{Crash: moment}
		}
		return fault.Action{}
	})
	var acked [writers]int
	if j, _, err := Open(t.Context(), o); err == nil {
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				for n := range perWriter {
					if _, err := j.Append(t.Context(), fmt.Appendf(nil, `"%d.%d"`, w, n)); err != nil {
						return
					}
					acked[w] = n + 1
				}
			})
		}
		all.Wait()
		f.Stop()
		_ = j.Close()
	}
	f.Stop()
	var choice []int
	for _, c := range f.Choices() {
		choice = append(choice, random.IntN(c))
	}
	f.PowerCut(choice)
	v.points++
	judgeWriters(t, v, f, acked)
}

func judgeWriters(t *testing.T, v *verdict, f *fault.FS, acked [writers]int) {
	fold := &texts{}
	j, _, err := Open(t.Context(), options(f, fold))
	if err != nil || j.Err() != nil {
		v.bad(&v.stuck, "%v, %v", err, errOf(j))
		return
	}
	defer j.Close()
	if check, err := Check(f, dir); err != nil || !check.OK() {
		v.bad(&v.stuck, "check: %v, %v", err, check.Problems)
	}
	var there [writers]int
	for _, text := range fold.Got {
		var w, n int
		if _, err := fmt.Sscanf(text, `"%d.%d"`, &w, &n); err != nil || n != there[w] {
			v.bad(&v.doubled, "%s after %d of its writer", text, there[w])
			return
		}
		there[w]++
	}
	for w := range writers {
		if there[w] < acked[w] {
			v.bad(&v.lost, "writer %d: %d acknowledged, %d there", w, acked[w], there[w])
		}
	}
}
