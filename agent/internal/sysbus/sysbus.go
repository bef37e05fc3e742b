// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package sysbus reads properties and signals of systemd's daemons over the
// system's D-Bus.
//
// It only reads. The bus's address is fixed: an environment variable cannot
// put another bus in its place, because what is read here decides whether a
// signature is in time and whether the host is going down. Every call ends
// with its context. A bus that is not there, refuses or does not answer is an
// error that wraps [ErrNoBus] and names the address.
//
// Testing: package bustest is a bus in the test's own process.
package sysbus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// System is where the system bus listens.
const System = "unix:path=/run/dbus/system_bus_socket"

// ErrNoBus says that the bus itself could not be used; what stands behind a
// property is then unknown.
var ErrNoBus = errors.New("the system's D-Bus cannot be used")

// Timeout bounds a call whose context has no deadline.
const Timeout = 5 * time.Second

// Conn is a connection to the bus.
type Conn struct {
	bus *dbus.Conn
}

// Dial connects to the bus at address. The connection ends with ctx, or with
// Close.
func Dial(ctx context.Context, address string) (*Conn, error) {
	bus, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoBus, address, err)
	}
	// Neither step takes a context; a peer that never answers is hung up on.
	hangUp := time.AfterFunc(Timeout, func() { _ = bus.Close() })
	defer hangUp.Stop()
	if err := greet(bus); err != nil {
		_ = bus.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrNoBus, address, errors.Join(ctx.Err(), err))
	}
	return &Conn{bus}, nil
}

func greet(bus *dbus.Conn) error {
	// By number: looking a user's name up may need the network.
	if err := bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	if err := bus.Hello(); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	return nil
}

// Close hangs up.
func (c *Conn) Close() error { return c.bus.Close() }

// Done is closed when the connection has ended, by whomever.
func (c *Conn) Done() <-chan struct{} { return c.bus.Context().Done() }

// Object is what has a property or sends a signal.
type Object struct {
	Service   string // org.freedesktop.login1
	Path      string // /org/freedesktop/login1
	Interface string // org.freedesktop.login1.Manager
}

// Get reads a property into the value that out points to, whose type must be
// the property's.
func (c *Conn) Get(ctx context.Context, o Object, property string, out any) error {
	var v dbus.Variant
	if err := c.call(ctx, o, "org.freedesktop.DBus.Properties.Get", []any{o.Interface, property}, &v); err != nil {
		return fmt.Errorf("%s %s: %w", o.Service, property, err)
	}
	if err := dbus.Store([]any{v.Value()}, out); err != nil {
		return fmt.Errorf("%s %s is of another type than expected: %w", o.Service, property, err)
	}
	return nil
}

// Call calls a method of the object's interface and stores what it answers.
func (c *Conn) Call(ctx context.Context, o Object, method string, args []any, out ...any) error {
	if err := c.call(ctx, o, o.Interface+"."+method, args, out...); err != nil {
		return fmt.Errorf("%s %s: %w", o.Service, method, err)
	}
	return nil
}

func (c *Conn) call(ctx context.Context, o Object, method string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	call := c.bus.Object(o.Service, dbus.ObjectPath(o.Path)).CallWithContext(ctx, method, 0, args...)
	if call.Err != nil {
		return call.Err
	}
	return call.Store(out...)
}

// Signals delivers a signal's bodies until the connection ends; then the
// channel is closed. A reader that is slow misses none.
func (c *Conn) Signals(ctx context.Context, o Object, member string) (<-chan []any, error) {
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	raw := make(chan *dbus.Signal, 16)
	c.bus.Signal(raw)
	err := c.bus.AddMatchSignalContext(ctx, dbus.WithMatchSender(o.Service), dbus.WithMatchObjectPath(dbus.ObjectPath(o.Path)),
		dbus.WithMatchInterface(o.Interface), dbus.WithMatchMember(member))
	if err != nil {
		c.bus.RemoveSignal(raw)
		return nil, fmt.Errorf("listen to %s of %s: %w", member, o.Service, err)
	}
	out := make(chan []any)
	go c.deliver(raw, out, o.Interface+"."+member)
	return out, nil
}

func (c *Conn) deliver(raw <-chan *dbus.Signal, out chan<- []any, name string) {
	defer close(out)
	for {
		select {
		case <-c.Done():
			return
		case s, ok := <-raw:
			if !ok {
				return
			}
			if s.Name != name {
				continue
			}
			select {
			case out <- s.Body:
			case <-c.Done():
				return
			}
		}
	}
}
