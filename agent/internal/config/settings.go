// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/hook"
)

const (
	maxPath = 1024
	// maxSocket keeps a socket's path below the 108 bytes of sockaddr_un.
	maxSocket = 99
	// maxRunDir leaves room for the sockets of plugins below it.
	maxRunDir = 60
	// maxDuration is a year.
	maxDuration = 8760 * time.Hour
)

// settings is every key outside [[provider]], in the order of the
// documentation. A key that is not marked takes effect on reload.
func settings() []setting[Config] {
	return slices.Concat(agentSettings(), hookSettings(), limitSettings(), pluginSettings(), pveSettings(), gateSettings())
}

func agentSettings() []setting[Config] {
	return []setting[Config]{
		enum("agent.mode", func(c *Config) *Mode { return &c.Agent.Mode }, Observe, Enforce),
		needsRestart(text("agent.node", "the name of a PVE node, or \"\" for the host's short name", true,
			func(c *Config) *string { return &c.Agent.Node },
			func(s string) bool { return s == "" || hook.ValidNode(s) })),
		needsRestart(path("agent.state_dir", maxPath, func(c *Config) *string { return &c.Agent.StateDir })),
		needsRestart(path("agent.run_dir", maxRunDir, func(c *Config) *string { return &c.Agent.RunDir })),
		needsRestart(path("agent.log_dir", maxPath, func(c *Config) *string { return &c.Agent.LogDir })),
		level("agent.log_level", func(c *Config) *slog.Level { return &c.Agent.LogLevel }),
		boolean("agent.allow_additive", func(c *Config) *bool { return &c.Agent.AllowAdditive }),
		number("agent.reserve_gib", 0, 1_000_000, func(c *Config) *int { return &c.Agent.ReserveGiB }),
		duration("agent.resync", time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.Agent.Resync }),
		needsRestart(duration("agent.drain", time.Second, 10*time.Minute,
			func(c *Config) *time.Duration { return &c.Agent.Drain })),
	}
}

func hookSettings() []setting[Config] {
	return []setting[Config]{
		needsRestart(path("hook.socket", maxSocket, func(c *Config) *string { return &c.Hook.Socket })),
		needsRestart(path("hook.spool", maxPath, func(c *Config) *string { return &c.Hook.Spool })),
		needsRestart(uids("hook.peer_uids", func(c *Config) *[]int { return &c.Hook.PeerUIDs })),
		vmids("hook.gated", func(c *Config) *[]int { return &c.Hook.Gated }),
		needsRestart(path("control.socket", maxSocket, func(c *Config) *string { return &c.Control.Socket })),
	}
}

func limitSettings() []setting[Config] {
	return []setting[Config]{
		number("limits.calls", 1, 16, func(c *Config) *int { return &c.Limits.Calls }),
		number("limits.reads", 1, 64, func(c *Config) *int { return &c.Limits.Reads }),
		number("limits.start_stop", 1, 64, func(c *Config) *int { return &c.Limits.StartStop }),
		number("limits.backup", 1, 16, func(c *Config) *int { return &c.Limits.Backup }),
		number("limits.other", 1, 64, func(c *Config) *int { return &c.Limits.Other }),
		needsRestart(number("limits.queue", 16, 1_000_000, func(c *Config) *int { return &c.Limits.Queue })),
		number("limits.guest_failures", 1, 1000, func(c *Config) *int { return &c.Limits.GuestFailures }),
		duration("limits.guest_quiet", time.Second, 24*time.Hour,
			func(c *Config) *time.Duration { return &c.Limits.GuestQuiet }),
		number("limits.node_guests", 1, 100_000, func(c *Config) *int { return &c.Limits.NodeGuests }),
		number("limits.node_percent", 1, 100, func(c *Config) *int { return &c.Limits.NodePercent }),
	}
}

func pluginSettings() []setting[Config] {
	return []setting[Config]{
		path("plugins.dir", maxPath, func(c *Config) *string { return &c.Plugins.Dir }),
		path("plugins.firstparty", maxPath, func(c *Config) *string { return &c.Plugins.FirstParty }),
		needsRestart(uids("plugins.trusted_uids", func(c *Config) *[]int { return &c.Plugins.TrustedUIDs })),
	}
}

func pveSettings() []setting[Config] {
	return []setting[Config]{
		text("pve.url", "https://HOST[:PORT] and nothing more, or \"\"", false,
			func(c *Config) *string { return &c.PVE.URL }, func(s string) bool { return s == "" || isURL(s) }),
		optionalPath("pve.token_file", func(c *Config) *string { return &c.PVE.TokenFile }),
		optionalPath("pve.ca_file", func(c *Config) *string { return &c.PVE.CAFile }),
		list("pve.pins", "a list of at most 16 different \"sha256:\" with base64 or hex of a public key's SHA-256", 0, 16,
			func(c *Config) *[]string { return &c.PVE.Pins }, readPin),
		text("pve.server_name", "a host name or address", true,
			func(c *Config) *string { return &c.PVE.ServerName }, isHost),
		optionalPath("pve.vmlist", func(c *Config) *string { return &c.PVE.VMList }),
		duration("pve.poll", 100*time.Millisecond, 5*time.Minute, func(c *Config) *time.Duration { return &c.PVE.Poll }),
	}
}

func gateSettings() []setting[Config] {
	return []setting[Config]{
		optionalPath("gate.allowed_signers", func(c *Config) *string { return &c.Gate.AllowedSigners }),
		optionalPath("gate.revoked_keys", func(c *Config) *string { return &c.Gate.RevokedKeys }),
		number("gate.signatures", 1, 16, func(c *Config) *int { return &c.Gate.Signatures }),
		boolean("gate.four_eyes", func(c *Config) *bool { return &c.Gate.FourEyes }),
		boolean("gate.security_key", func(c *Config) *bool { return &c.Gate.SecurityKey }),
		boolean("gate.pin", func(c *Config) *bool { return &c.Gate.PIN }),
		duration("gate.window", time.Minute, 7*24*time.Hour, func(c *Config) *time.Duration { return &c.Gate.Window }),
		duration("gate.quarantine", time.Second, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.Gate.Quarantine }),
		duration("gate.backup_age", time.Minute, 365*24*time.Hour, func(c *Config) *time.Duration { return &c.Gate.BackupAge }),
		boolean("gate.assume_clock", func(c *Config) *bool { return &c.Gate.AssumeClock }),
	}
}

// maxThreshold is how many signatures the gate counts at most.
const maxThreshold = 16

// providerSettings is every key of a [[provider]].
func providerSettings() []setting[Provider] {
	isName := regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`).MatchString
	const name = "1 to 32 of a-z 0-9 -, beginning with a letter or digit"
	return []setting[Provider]{
		text("name", name, true, func(p *Provider) *string { return &p.Name }, isName),
		text("plugin", "\"dir\", \"hub\", \"nats\" or a vendor's plugin, "+name, true, func(p *Provider) *string { return &p.Plugin }, isName),
		boolean("require_signature", func(p *Provider) *bool { return &p.RequireSignature }),
		text("issuer", "a principal of allowed_signers: letters, digits and ._:@/+-", true,
			func(p *Provider) *string { return &p.Issuer }, regexp.MustCompile(`^[A-Za-z0-9._:@/+-]{1,200}$`).MatchString),
		number("threshold", 1, maxThreshold, func(p *Provider) *int { return &p.Threshold }),
		duration("max_age", 0, maxDuration, func(p *Provider) *time.Duration { return &p.MaxAge }),
		{
			key: "config", want: "a table of strings, numbers, true and false, lists and tables",
			set: setPluginConfig,
		},
		{
			key: "secrets", want: "a table of NAME = { file = \"/...\" } or { credential = \"...\" }",
			set: setSecrets,
		},
	}
}

// setPluginConfig keeps the table as JSON, which is how it crosses to the
// plugin.
func setPluginConfig(p *Provider, v any) (wrong string) {
	table, ok := v.(map[string]any)
	if !ok {
		return isKind(v)
	}
	if where, ok := hasJSON("", table); !ok {
		return where + " is a time, or a number without end"
	}
	b, err := json.Marshal(table)
	if err != nil {
		return "cannot be handed over: " + err.Error()
	}
	p.Config = b
	return ""
}

// setSecrets reads where secrets are. What is wrong is told without a value: it
// may be the secret itself.
func setSecrets(p *Provider, v any) (wrong string) {
	table, ok := v.(map[string]any)
	if !ok {
		return isKind(v)
	}
	all := map[string]Secret{}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		entry, ok := table[name].(map[string]any)
		if !ok {
			return keyPath(name) + " " + isKind(table[name])
		}
		file, _ := entry["file"].(string)
		credential, _ := entry["credential"].(string)
		all[name] = Secret{File: file, Credential: credential}
		if len(entry) != 1 || !all[name].valid() {
			return keyPath(name) + " has neither the path of a file alone nor the name of a credential alone"
		}
	}
	p.Secrets = all
	return ""
}

func (s Secret) valid() bool {
	isCredential := s.Credential != "" && printable(s.Credential) && !strings.Contains(s.Credential, "/")
	return isCredential != (s.File != "" && isPath(s.File, maxPath))
}

// hasJSON reports whether v means the same as JSON, and where it does not.
func hasJSON(at string, v any) (where string, ok bool) {
	switch v := v.(type) {
	case time.Time:
		return at, false
	case float64:
		return at, !math.IsInf(v, 0) && !math.IsNaN(v)
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if where, ok = hasJSON(strings.TrimPrefix(at+"."+keyPath(k), "."), v[k]); !ok {
				return where, false
			}
		}
	case []map[string]any:
		return itemsHaveJSON(at, v)
	case []any:
		return itemsHaveJSON(at, v)
	}
	return "", true
}

func itemsHaveJSON[T any](at string, items []T) (where string, ok bool) {
	for i, item := range items {
		if where, ok = hasJSON(at+"["+strconv.Itoa(i)+"]", item); !ok {
			return where, false
		}
	}
	return "", true
}

func isURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && isHost(u.Hostname()) && isPort(u.Port()) &&
		(s == "https://"+u.Host || s == "https://"+u.Host+"/")
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && n > 0
}

func isHost(s string) bool {
	return net.ParseIP(s) != nil ||
		len(s) <= 253 && regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`).MatchString(s)
}

func readPin(v any) (string, string) {
	s, ok := v.(string)
	if !ok {
		return "", isKind(v)
	}
	text := strings.TrimPrefix(s, "sha256:")
	sum, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
	if err != nil {
		sum, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(sum) != 32 {
		return "", quote(s) + " is not allowed"
	}
	return s, ""
}
