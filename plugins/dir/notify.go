// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// notifier tells of changes in a directory as far as inotify can. What it
// misses, the relist finds.
type notifier struct {
	path    string
	log     *slog.Logger
	changes chan struct{}

	fs *fsnotify.Watcher // nil: none
	wg sync.WaitGroup    // of forward
}

func newNotifier(path string, log *slog.Logger) *notifier {
	n := &notifier{path: path, log: log, changes: make(chan struct{}, 1)}
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("no inotify: changes are noticed by the relist only", "error", err)
		return n
	}
	n.fs = fs
	n.wg.Go(n.forward)
	return n
}

// arm watches what the path is now. A watch is bound to the directory, not to
// its name: one that was replaced is watched no more.
func (n *notifier) arm() {
	if n.fs == nil {
		return
	}
	// Adding the same directory again changes nothing; another one under the
	// name takes the former's place.
	if err := n.fs.Add(n.path); err != nil {
		n.log.Debug("cannot watch", "path", n.path, "error", err)
	}
}

// forward makes one signal of any number of events.
func (n *notifier) forward() {
	for {
		select {
		case ev, ok := <-n.fs.Events:
			if !ok {
				return
			}
			if !worthALook(n.path, ev) {
				continue
			}
		case err, ok := <-n.fs.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				n.log.Warn("inotify", "error", err)
			}
		}
		select {
		case n.changes <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// close ends the notification and waits for it.
func (n *notifier) close() {
	if n.fs == nil {
		return
	}
	if err := n.fs.Close(); err != nil {
		n.log.Warn("inotify", "error", err)
	}
	n.wg.Wait()
}
