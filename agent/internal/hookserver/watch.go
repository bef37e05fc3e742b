// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hookserver

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watcher tells that something new is in a directory. It is a hint to look.
type watcher struct {
	dir    string
	notify *os.File // inotify; nil if the kernel gives none
	err    error    // why notify is nil
	news   chan struct{}
	reader sync.WaitGroup
	detach func() bool
}

// watch starts watching dir, once armed, until stop.
func watch(ctx context.Context, dir string) *watcher {
	w := &watcher{dir: dir, news: make(chan struct{}, 1), detach: func() bool { return true }}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		w.err = fmt.Errorf("inotify: %w", err)
		return w
	}
	w.notify = os.NewFile(uintptr(fd), "inotify")
	w.detach = context.AfterFunc(ctx, func() { w.notify.Close() })
	w.reader.Go(w.read)
	return w
}

// read turns whatever the kernel says into one hint at a time.
func (w *watcher) read() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.notify.Read(buf); err != nil {
			return
		}
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}

// arm makes sure that the directory is watched which has the name now, which may
// be new, until the next sign. Watching one twice is watching it once.
func (w *watcher) arm() error {
	if w.notify == nil {
		return w.err
	}
	raw, err := w.notify.SyscallConn()
	if err != nil {
		return err
	}
	var aerr error
	err = raw.Control(func(fd uintptr) {
		// An event is renamed into place; the count of lost ones is modified. One
		// sign is enough: hundreds of hooks at once would be as many wake-ups.
		_, aerr = unix.InotifyAddWatch(int(fd), w.dir, unix.IN_MOVED_TO|unix.IN_MODIFY|unix.IN_ONLYDIR|unix.IN_ONESHOT)
	})
	if err == nil {
		err = aerr
	}
	return err
}

// wait returns true when something is new or the time is over, false when ctx
// ends.
func (w *watcher) wait(ctx context.Context, atMost time.Duration) bool {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-w.news:
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// stop ends the reader and waits for it.
func (w *watcher) stop() {
	if w.notify != nil && w.detach() {
		w.notify.Close()
	}
	w.reader.Wait()
}
