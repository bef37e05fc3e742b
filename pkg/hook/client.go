// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"
)

// The defaults of the hook helper.
const (
	DefaultSocket = "/run/felhom-agent/hook.sock"
	DefaultSpool  = "/run/felhom-hook/spool"
	// DefaultClosed holds a file for each guest that shall not start unless the
	// agent says that it may.
	DefaultClosed = "/etc/felhom-agent/closed.d"
	// DefaultBudget bounds a whole run of the helper, spooling included.
	DefaultBudget = 250 * time.Millisecond
)

// EventPath is where the agent's hook socket takes events.
const EventPath = "/v1/event"

// Post hands e to the agent that serves socket and returns nil once the agent
// said that the event is in its journal. It takes no longer than budget, plus
// the few milliseconds by which the kernel rounds a socket's timeout.
//
// Errors: [ErrInvalid], nothing was sent; [ErrVeto], the event is in the
// journal and the start shall not be; [ErrBudget]; [ErrNotAcknowledged]; else
// what the system said, ENOENT or ECONNREFUSED when no agent is there. After
// any of them but the first two the event belongs into the spool.
//
// It takes a budget and not a context because it is one short, straight run
// of blocking system calls that each get what is left of the budget.
func Post(socket string, e Event, budget time.Duration) error {
	if err := e.Validate(); err != nil {
		return err
	}
	c := conn{deadline: time.Now().Add(budget)}
	if err := c.exchange(socket, request(e, "")); err != nil {
		return fail("hook: post to "+socket, err)
	}
	return nil
}

// Tell hands e, which is in the spool, to the agent that serves socket, and
// waits for nothing: not for room in a busy agent's queue, nor for an answer.
// What comes of it does not matter to the event, which the agent finds in the
// spool as well, and under the same id counts once.
//
// Errors: [ErrInvalid]; [ErrBusy]; else what the system said.
func Tell(socket string, e Event) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if err := tell(socket, request(e, "Prefer: "+RespondAsync+"\r\n")); err != nil {
		return fail("hook: tell "+socket, err)
	}
	return nil
}

func tell(socket string, req []byte) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	err = os.NewSyscallError("connect", syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}))
	if err == nil {
		_, err = syscall.SendmsgN(fd, req, nil, nil, syscall.MSG_NOSIGNAL) // all or nothing, as small as it is
		err = os.NewSyscallError("send", err)
	}
	if errors.Is(err, syscall.EAGAIN) {
		return ErrBusy
	}
	return err
}

// RespondAsync is the preference (RFC 7240, in the header Prefer) of a helper
// that does not wait for the answer, as the event is in the spool.
const RespondAsync = "respond-async"

// request is the whole HTTP request, small enough for one write.
func request(e Event, header string) []byte {
	body := e.AppendJSON(make([]byte, 0, 384))
	b := make([]byte, 0, 640)
	b = append(b, "POST "+EventPath+" HTTP/1.1\r\nHost: felhom\r\nConnection: close\r\n"...)
	b = append(b, header...)
	b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, body...)
}

// conn is one exchange over a unix socket by plain system calls: package net
// would add its poller and its initialisation to every start of a guest.
type conn struct {
	fd       int
	deadline time.Time
}

func (c *conn) exchange(socket string, req []byte) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer syscall.Close(fd)
	c.fd = fd
	if err := c.connect(socket); err != nil {
		return err
	}
	if err := c.send(req); err != nil {
		return err
	}
	return c.answer()
}

// connect waits while the agent's backlog is full, for as long as sending may.
func (c *conn) connect(socket string) error {
	return c.bounded("connect", syscall.SO_SNDTIMEO, func() error {
		return syscall.Connect(c.fd, &syscall.SockaddrUnix{Name: socket})
	})
}

func (c *conn) send(b []byte) error {
	for len(b) > 0 {
		var n int
		err := c.bounded("send", syscall.SO_SNDTIMEO, func() (err error) {
			n, err = syscall.SendmsgN(c.fd, b, nil, nil, syscall.MSG_NOSIGNAL)
			return err
		})
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// answer reads the status line and leaves the rest unread.
func (c *conn) answer() error {
	var buf [256]byte
	for have := 0; ; {
		var n int
		err := c.bounded("receive", syscall.SO_RCVTIMEO, func() (err error) {
			n, err = syscall.Read(c.fd, buf[have:])
			return err
		})
		if err != nil {
			return err
		}
		have += n
		if end := lineEnd(buf[:have]); end >= 0 {
			return acknowledged(string(buf[:end]))
		}
		if n == 0 || have == len(buf) {
			return fail("the answer has no status line", ErrNotAcknowledged)
		}
	}
}

func lineEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		if b[i-1] == '\r' && b[i] == '\n' {
			return i - 1
		}
	}
	return -1
}

// acknowledged reads a status line such as "HTTP/1.1 204 No Content": 204 says
// that the event is journalled, 409 that it is and that the start is vetoed.
// No other answer says either.
func acknowledged(line string) error {
	const version = "HTTP/1."
	at := len(version) + 1
	if len(line) >= at+4 && line[:len(version)] == version && (len(line) == at+4 || line[at+4] == ' ') {
		switch line[at : at+4] {
		case " 204":
			return nil
		case " 409":
			return ErrVeto
		}
	}
	return fail("the agent answered "+strconv.Quote(line), ErrNotAcknowledged)
}

// bounded runs one system call under what is left of the budget, again after a
// signal. A timeout of zero would mean to wait for ever.
func (c *conn) bounded(what string, option int, call func() error) error {
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return fail(what, ErrBudget)
		}
		tv := syscall.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
		if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &tv); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		switch err := call(); {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			return fail(what, ErrBudget)
		case err != nil:
			return os.NewSyscallError(what, err)
		default:
			return nil
		}
	}
}
