// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// newest is the newest revision of the key that was seen or heard of. Any
// replica of the bucket answers a reader, also one that lags behind: what it has
// was replaced already, and would undo what was done since.
type newest struct {
	mu       sync.Mutex // guards what follows
	made     time.Time  // when the bucket was made; its revisions count from there
	revision uint64
}

// heard notes a revision that a watch tells of.
func (n *newest) heard(revision uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.revision = max(n.revision, revision)
}

// take takes a revision that was read, or says that it is an old one. What the
// bucket itself says comes from its leader: one that was made anew, or put back
// from a backup, has not had the newer one.
func (n *newest) take(revision uint64, standing func() (made time.Time, last uint64, err error)) error {
	if n.is(revision) {
		return nil
	}
	made, last, err := standing()
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	same := n.made.IsZero() || n.made.Equal(made)
	n.made = made
	if same && revision < n.revision && n.revision <= last {
		return fmt.Errorf("revision %d is older than revision %d, which was there before: a replica lags behind; if this stays, put the set again",
			revision, n.revision)
	}
	n.revision = revision
	return nil
}

// is takes a revision of which it is clear that it is new.
func (n *newest) is(revision uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.made.IsZero() || revision < n.revision {
		return false
	}
	n.revision = revision
	return true
}

// standing is when a bucket was made, and the last revision that it has given.
func standing(ctx context.Context, kv jetstream.KeyValue) (made time.Time, last uint64, err error) {
	st, err := kv.Status(ctx)
	if err != nil {
		return made, 0, err
	}
	b, ok := st.(*jetstream.KeyValueBucketStatus)
	if !ok {
		return made, 0, fmt.Errorf("its status is a %T", st)
	}
	return b.StreamInfo().Created, b.StreamInfo().State.LastSeq, nil
}
