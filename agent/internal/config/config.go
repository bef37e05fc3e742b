// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package config is the agent's configuration: what can be set, the defaults,
// and the strict reading of agent.toml.
//
// It guarantees that a configuration is taken whole or not at all, that every
// error of a file is reported at once, each with file, line, key, what was
// wrong and what is allowed, and that no error repeats a value that may be a
// secret. Nothing needs to be set: without a file the agent observes and
// changes nothing (promise P1).
package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
)

// Mode says whether the agent may change guests.
type Mode string

// The two modes of a host.
const (
	Observe Mode = "observe" // plan and report, change nothing
	Enforce Mode = "enforce"
)

// Config is the whole configuration, valid and with every default filled in.
type Config struct {
	Agent     Agent
	Hook      Hook
	Control   Control
	Limits    Limits
	Plugins   Plugins
	PVE       PVE
	Gate      Gate
	Providers []Provider

	// Notes are what the operator should be told, one line each: that there is
	// no file, or that a setting is meant for development only.
	Notes []string
}

// Agent is the table [agent].
type Agent struct {
	Mode Mode
	// Node is the name of this PVE node; empty = the host's short name.
	Node string
	// The directories are absolute and clean.
	StateDir, RunDir, LogDir string
	LogLevel                 slog.Level
	// AllowAdditive lets the agent create guests and volumes and grow disks.
	AllowAdditive bool
	// ReserveGiB is how much must stay free on a storage on which it makes
	// something.
	ReserveGiB int
	// Resync is how often every guest is looked at, event or not.
	Resync time.Duration
	// Drain is how long a stopping agent waits for what it has in flight.
	Drain time.Duration
}

// Hook is the table [hook].
type Hook struct {
	Socket, Spool string
	// PeerUIDs are the users who may post events.
	PeerUIDs []int
	// Gated are the guests whose starts are vetoed while their document wants
	// them stopped.
	Gated []int
}

// Control is the table [control].
type Control struct {
	Socket string
}

// Limits is the table [limits].
type Limits struct {
	Calls     int // mutating calls outstanding at PVE
	Reads     int // reading calls outstanding at PVE
	StartStop int // tasks that start or stop a guest
	Backup    int // backup tasks
	Other     int // all other tasks
	Queue     int // operations that wait
	// GuestFailures in a row freeze a guest until it was left alone for
	// GuestQuiet.
	GuestFailures int
	GuestQuiet    time.Duration
	// More than NodeGuests guests, or more than NodePercent of all, that would
	// change at once freeze the node.
	NodeGuests  int
	NodePercent int
}

// Plugins is the table [plugins].
type Plugins struct {
	Dir        string // vendors' manifests
	FirstParty string // executables of this package
	// TrustedUIDs may own a plugin; other than root only for development.
	TrustedUIDs []int
}

// Trusted is TrustedUIDs as the system counts users.
func (p Plugins) Trusted() []uint32 {
	var out []uint32
	for _, uid := range p.TrustedUIDs {
		out = append(out, uint32(uid))
	}
	return out
}

// PVE is the table [pve].
type PVE struct {
	// URL is https://HOST[:PORT]; empty = no connection to the node.
	URL        string
	TokenFile  string
	CAFile     string
	Pins       []string
	ServerName string
	// VMList is the path of PVE's .vmlist; empty = not watched.
	VMList string
	// Poll is how often the node is asked for what changed.
	Poll time.Duration
}

// Gate is the table [gate]: who may sign, in OpenSSH's formats.
type Gate struct {
	AllowedSigners string // empty = nobody may sign
	RevokedKeys    string // empty = none is revoked; a file that is named must exist
	// What an approval needs: how many people, that who asked does not count,
	// that only security keys count, and only with their PIN.
	Signatures                 int
	FourEyes, SecurityKey, PIN bool
	// Window is how long a request may be signed and carried out.
	Window time.Duration
	// Quarantine is how long a guest is kept before it is deleted, at least.
	Quarantine time.Duration
	// BackupAge is how old the last backup of a guest may be that is destroyed.
	BackupAge time.Duration
	// AssumeClock takes the host's clock for synchronised without asking.
	AssumeClock bool
}

// Provider is one table [[provider]].
type Provider struct {
	Name   string // unique
	Plugin string // "dir", "hub", "nats" or the name of a vendor's plugin
	// RequireSignature takes only a set with an index that Issuer has signed,
	// and as many people in all as Threshold says.
	RequireSignature bool
	Issuer           string
	Threshold        int
	// MaxAge is how long a revision holds after it was received; 0 = until its
	// own not-after.
	MaxAge time.Duration
	// Config is handed to the plugin: a JSON object, nil if there is none. It
	// may hold secrets.
	Config json.RawMessage
	// Secrets are handed to the plugin apart from Config, by their names.
	Secrets map[string]Secret
	// At is where the table begins: FILE:LINE.
	At string
}

// Secret is where a secret is read from: exactly one of the fields.
type Secret struct {
	File       string // absolute; nobody but its owner and group may read it
	Credential string // the name of a systemd credential of the agent's unit
}

// Default is the configuration without a file.
func Default() Config {
	return Config{
		Agent: Agent{
			Mode:     Observe,
			StateDir: "/var/lib/felhom-agent", RunDir: "/run/felhom-agent", LogDir: "/var/log/felhom-agent",
			LogLevel: slog.LevelInfo, ReserveGiB: 5, Resync: 5 * time.Minute, Drain: 20 * time.Second,
		},
		Hook:    Hook{Socket: "/run/felhom-agent/hook.sock", Spool: "/run/felhom-hook/spool", PeerUIDs: []int{0}},
		Control: Control{Socket: "/run/felhom-agent/control.sock"},
		Limits: Limits{
			Calls: 2, Reads: 4, StartStop: 4, Backup: 1, Other: 2, Queue: 10_000,
			GuestFailures: 5, GuestQuiet: 10 * time.Minute, NodeGuests: 20, NodePercent: 50,
		},
		Plugins: Plugins{
			Dir: "/etc/felhom-agent/plugins.d", FirstParty: "/usr/libexec/felhom-agent/plugins", TrustedUIDs: []int{0},
		},
		PVE: PVE{ServerName: "localhost", Poll: 2 * time.Second},
		Gate: Gate{
			AllowedSigners: "/etc/felhom-agent/allowed_signers", RevokedKeys: "/etc/felhom-agent/revoked_keys",
			Signatures: 1, Window: 24 * time.Hour, Quarantine: 72 * time.Hour, BackupAge: 24 * time.Hour,
		},
	}
}

// maxFile bounds the file, in bytes.
const maxFile = 64 << 10

// Load reads the file at path. A file that does not exist gives the defaults
// and a note. The error is a [Problems] unless the file could not be read.
func Load(path string) (Config, error) {
	data, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) {
		c := Default()
		c.Notes = []string{fmt.Sprintf("%s does not exist; the defaults hold: the agent observes and has no provider", path)}
		return c, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Changed names the keys by which b differs from a and which take effect only
// when the agent is restarted, in the order of the documentation. All others,
// providers among them, take effect on reload.
func Changed(a, b Config) []string {
	var keys []string
	for _, s := range settings() {
		if s.restart && !s.same(&a, &b) {
			keys = append(keys, s.key)
		}
	}
	return keys
}

// Keys names every key that can be set, in the order of the documentation;
// those of a provider begin with "provider.".
func Keys() []string {
	var keys []string
	for _, s := range settings() {
		keys = append(keys, s.key)
	}
	for _, s := range providerSettings() {
		keys = append(keys, "provider."+s.key)
	}
	return keys
}
