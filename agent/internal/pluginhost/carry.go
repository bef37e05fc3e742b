// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A plugin in a unit of its own is reached by one connection to the launcher
// that the unit runs: a line of JSON each way, and then, byte for byte, the
// connection to the plugin, TLS and all. The end of the connection is the end
// of the unit.

// carryRequest is what the host sends first.
type carryRequest struct {
	Version    int    `json:"version"` // 1
	ClientCert string `json:"client_cert"`
	// Mask are the plugin's secrets, for what it prints: the launcher logs that.
	// It is told no more than the plugin is, whose user it shares.
	Mask [][]byte `json:"mask,omitempty"`
}

func (q carryRequest) secrets() []string {
	var all []string
	for _, s := range q.Mask {
		all = append(all, string(s))
	}
	return all
}

// carryReply is what the launcher answers.
type carryReply struct {
	// Handshake is the plugin's line.
	Handshake string `json:"handshake,omitempty"`
	PID       int    `json:"pid,omitempty"`
	// Error says why there is no plugin; Refused, that only a person can end
	// that.
	Error   string `json:"error,omitempty"`
	Refused bool   `json:"refused,omitempty"`
}

const (
	carryVersion = 1
	maxRequest   = 32 << 20 // bytes of a line; the secrets fit into a message, too
	maxReply     = 64 << 10
	carryPause   = 10 * time.Second
)

func sendCarry(c net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(append(b, '\n'))
	return err
}

// readCarry reads one line and not a byte more: what follows is not ours.
func readCarry(c net.Conn, v any, most int) error {
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if b[0] == '\n' {
			return json.Unmarshal(line, v)
		}
		if line = append(line, b[0]); len(line) > most {
			return fmt.Errorf("a line of more than %d bytes", most)
		}
	}
}

// err is what the launcher says is wrong.
func (r carryReply) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Refused:
		return fmt.Errorf("%w: %s", errRefused, r.Error)
	}
	return errors.New(r.Error)
}
