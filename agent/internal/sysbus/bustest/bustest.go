// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package bustest is a D-Bus in the test's own process: it answers property
// reads and method calls from a table and sends signals to whoever is
// connected.
package bustest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// Bus is a bus with a few objects on it.
type Bus struct {
	Address string

	ln net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	props map[string]any // "path interface property"
	calls map[string]any // "path interface.member" -> what it answers
	mute  bool
	seen  int
	conns map[net.Conn]bool
}

// New starts a bus that ends with the test.
func New(t testing.TB) *Bus {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := &Bus{Address: "unix:path=" + path, ln: ln, props: map[string]any{}, calls: map[string]any{}, conns: map[net.Conn]bool{}}
	b.wg.Add(1)
	go b.accept()
	t.Cleanup(b.close)
	return b
}

func (b *Bus) close() {
	b.Stop()
	b.wg.Wait()
}

// Stop ends the bus: whoever is connected is hung up on, nobody gets in.
func (b *Bus) Stop() {
	_ = b.ln.Close()
	b.HangUp()
}

// Set gives an object's property a value.
func (b *Bus) Set(path, iface, property string, value any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.props[path+" "+iface+" "+property] = value
}

// Answer lets a method answer with one value, whatever its arguments; an error
// is sent as one.
func (b *Bus) Answer(path, iface, member string, value any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls[path+" "+iface+"."+member] = value
}

// Mute makes the bus take everything and answer nothing.
func (b *Bus) Mute(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mute = yes
}

// Seen is how many have connected.
func (b *Bus) Seen() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// HangUp ends every connection.
func (b *Bus) HangUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
}

// Signal sends a signal to everybody who is connected.
func (b *Bus) Signal(sender, path, iface, member string, body ...any) {
	m := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(path)),
		dbus.FieldInterface: dbus.MakeVariant(iface),
		dbus.FieldMember:    dbus.MakeVariant(member),
		dbus.FieldSender:    dbus.MakeVariant(sender),
	}}
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		send(c, m, body...)
	}
}

func (b *Bus) accept() {
	defer b.wg.Done()
	for {
		c, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns[c] = true
		b.seen++
		b.mu.Unlock()
		b.wg.Add(1)
		go b.serve(c)
	}
}

func (b *Bus) serve(c net.Conn) {
	defer b.wg.Done()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.conns, c)
		_ = c.Close()
	}()
	r := bufio.NewReader(c)
	if !b.greet(c, r) {
		return
	}
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		if m.Type == dbus.TypeMethodCall {
			b.answer(c, m)
		}
	}
}

// greet is the server's side of SASL EXTERNAL.
func (b *Bus) greet(c net.Conn, r *bufio.Reader) bool {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		reply := ""
		switch line = strings.TrimPrefix(strings.TrimSpace(line), "\x00"); {
		case line == "AUTH":
			reply = "REJECTED EXTERNAL"
		case strings.HasPrefix(line, "AUTH EXTERNAL"), strings.HasPrefix(line, "DATA"):
			reply = "OK 0123456789abcdef0123456789abcdef"
		case line == "BEGIN":
			return true
		default:
			reply = "ERROR"
		}
		if b.muted() {
			continue
		}
		if _, err := c.Write([]byte(reply + "\r\n")); err != nil {
			return false
		}
	}
}

func (b *Bus) muted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mute
}

func (b *Bus) answer(c net.Conn, m *dbus.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mute {
		return
	}
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	iface, _ := m.Headers[dbus.FieldInterface].Value().(string)
	member, _ := m.Headers[dbus.FieldMember].Value().(string)
	reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
	}}
	switch value, known := b.lookup(path, iface, member, m.Body); {
	case iface == "org.freedesktop.DBus" && member == "Hello":
		send(c, reply, ":1.1")
	case iface == "org.freedesktop.DBus":
		send(c, reply)
	case !known:
		fail(c, reply, "org.freedesktop.DBus.Error.UnknownObject", "there is no "+string(path)+" "+iface+"."+member)
	default:
		if err, ok := value.(error); ok {
			fail(c, reply, "org.freedesktop.DBus.Error.Failed", err.Error())
			return
		}
		send(c, reply, value)
	}
}

func (b *Bus) lookup(path dbus.ObjectPath, iface, member string, body []any) (any, bool) {
	if iface != "org.freedesktop.DBus.Properties" || member != "Get" || len(body) != 2 {
		v, ok := b.calls[string(path)+" "+iface+"."+member]
		return v, ok
	}
	of, _ := body[0].(string)
	name, _ := body[1].(string)
	v, ok := b.props[string(path)+" "+of+" "+name]
	if _, isErr := v.(error); ok && !isErr {
		v = dbus.MakeVariant(v)
	}
	return v, ok
}

func fail(c net.Conn, reply *dbus.Message, name, text string) {
	reply.Type = dbus.TypeError
	reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant(name)
	send(c, reply, text)
}

func send(c net.Conn, m *dbus.Message, body ...any) {
	if len(body) > 0 {
		m.Body = body
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	var buf bytes.Buffer
	if err := m.EncodeTo(&buf, binary.LittleEndian); err != nil {
		panic(err) // a test that answers what D-Bus cannot carry
	}
	raw := buf.Bytes()
	binary.LittleEndian.PutUint32(raw[8:], 1) // a serial of 0 is not allowed
	_, _ = c.Write(raw)
}
