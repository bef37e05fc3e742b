// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/clock"
	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/setup"
	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve"
)

func clockCheck(ctx context.Context, env *Env) []Finding {
	synced, err := clock.SynchronisedAt(ctx, env.Bus)
	const remedy = "timedatectl; PVE comes with chrony: systemctl status chrony"
	switch {
	case err != nil:
		return one(Unknown, remedy, "%v; no signature is accepted until it is known", err)
	case !synced && env.Config.Gate.AssumeClock:
		return one(Warn, remedy, "the clock is not synchronised, and is taken for right ([gate] assume_clock)")
	case !synced && hasSigners(env):
		return one(Bad, remedy, "the clock is not synchronised; no signature is accepted")
	case !synced:
		return one(Warn, remedy, "the clock is not synchronised")
	}
	return ok("the clock is synchronised")
}

// hasSigners reports whether anybody's signature could be accepted.
func hasSigners(env *Env) bool {
	info, err := os.Stat(env.Config.Gate.AllowedSigners)
	return err == nil && info.Size() > 0
}

func hostState(_ context.Context, env *Env) []Finding {
	if env.Agent == nil {
		return unknown("the agent does not answer")
	}
	p := env.Agent.Power
	switch {
	case p.Blind != "":
		return one(Warn, "systemctl status dbus", "whether the host goes down is known from PVE's tasks only: %s", p.Blind)
	case p.Frozen != "":
		return one(Warn, "", "no guest is started or stopped: %s", p.Frozen)
	}
	return ok("systemd tells when the host goes down")
}

// configured reports what keeps PVE from being asked; nil if nothing does.
func configured(env *Env) []Finding {
	switch {
	case env.Config.PVE.URL == "":
		return one(Warn, "felhom-agent setup shows how", "no PVE connection is configured ([pve] url)")
	case env.PVE == nil:
		return unknown("%v", env.PVEErr)
	}
	return nil
}

func version(ctx context.Context, env *Env) []Finding {
	if f := configured(env); f != nil {
		return f
	}
	v, err := env.PVE.Version(ctx)
	switch {
	case errors.Is(err, pve.ErrDenied):
		return one(Bad, "felhom-agent setup --run --new-token", "PVE refuses the token: %v", err)
	case err != nil:
		return one(Bad, "systemctl status pveproxy pvedaemon; see the check of tls", "PVE does not answer: %v", err)
	case v.Major() == 8 || v.Major() == 9:
		return ok("PVE %s", v.Version)
	case v.Major() == 0:
		return unknown("PVE tells no version (%q)", v.Version)
	case v.Major() < 8:
		return one(Warn, "upgrade: PVE 7 gets no fixes since 2024", "PVE %s is older than what was tried", v.Version)
	}
	return one(Warn, "look for a newer felhom-agent", "PVE %s is newer than what is known: unknown keys are compared as text", v.Version)
}

// expiresSoon is how long before a certificate's end to warn. PVE renews its
// own two weeks ahead.
const expiresSoon = 14 * 24 * time.Hour

func tlsCheck(ctx context.Context, env *Env) []Finding {
	if env.Config.PVE.URL == "" {
		return configured(env)
	}
	end, err := certificateEnd(ctx, env.Config.PVE.URL)
	if err != nil {
		return one(Bad, "systemctl status pveproxy", "no TLS connection: %v", err)
	}
	left := end.Sub(env.Now)
	day := end.Format("2006-01-02")
	switch {
	case left < 0:
		return one(Bad, "pvecm updatecerts, then felhom-agent setup --refresh", "the node's certificate ended on %s", day)
	case left < expiresSoon:
		return one(Warn, "after it was renewed: felhom-agent setup --refresh", "the node's certificate ends on %s", day)
	}
	if env.PVE != nil {
		if _, err := env.PVE.Version(ctx); errors.Is(err, pve.ErrNotSent) {
			return one(Bad, "felhom-agent setup --refresh", "the node's certificate is not trusted: %v", err)
		}
	}
	return ok("the node's certificate is good until %s", day)
}

// certificateEnd looks at the certificate whether it is trusted or not: what
// is wrong with it is what the client itself says.
func certificateEnd(ctx context.Context, rawURL string) (time.Time, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return time.Time{}, err
	}
	port := u.Port()
	if port == "" {
		port = "8006"
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // nothing is sent over it
	c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), port))
	if err != nil {
		return time.Time{}, err
	}
	defer c.Close()
	certs := c.(*tls.Conn).ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return time.Time{}, errors.New("the node shows no certificate")
	}
	return certs[0].NotAfter, nil
}

func quorum(ctx context.Context, env *Env) []Finding {
	if f := configured(env); f != nil {
		return f
	}
	c, err := env.PVE.Cluster(ctx)
	switch {
	case err != nil:
		return unknown("%v", err)
	case !c.Quorate:
		return one(Bad, "pvecm status", "the cluster %s has no quorum: nothing can be changed", c.Name)
	case c.Name == "":
		return ok("a node on its own")
	}
	return ok("the cluster %s is quorate, %d nodes", c.Name, len(c.Nodes))
}

// wantedRole is the least that serves the configuration.
func wantedRole(c config.Config) setup.Role {
	switch {
	case c.Agent.Mode != config.Enforce:
		return setup.Observe
	case c.Agent.AllowAdditive:
		return setup.Provision
	}
	return setup.Operate
}

// tokenMay is what the token may do, on a PVE of this major version, or what
// keeps that from being known.
func tokenMay(ctx context.Context, env *Env) (have pve.Permissions, major int, f []Finding) {
	if f := configured(env); f != nil {
		return nil, 0, f
	}
	v, err := env.PVE.Version(ctx)
	if err != nil {
		return nil, 0, unknown("%v", err)
	}
	have, err = env.PVE.Permissions(ctx, "")
	if err != nil {
		return nil, 0, unknown("%v", err)
	}
	return have, v.Major(), nil
}

func privileges(ctx context.Context, env *Env) []Finding {
	have, major, f := tokenMay(ctx, env)
	if f != nil {
		return f
	}
	role := wantedRole(env.Config)
	missing, excess := compare(have, role.Grants(major), setup.Full.Grants(major))
	var out []Finding
	if len(missing) > 0 {
		out = append(out, one(Bad, fmt.Sprintf("felhom-agent setup --run --role %s", role), "for the configuration (role %s) the token lacks %s", role, list(missing))...)
	}
	if len(excess) > 0 {
		out = append(out, one(Warn, "felhom-agent setup --run gives it a role of its own; take the others away", "the token may do what the agent never does: %s", list(excess))...)
	}
	if out == nil {
		return ok("enough for role %s, and nothing that the agent never uses", role)
	}
	return out
}

// compare lists what is missing of the least, and what is there beyond the
// most.
func compare(have pve.Permissions, least, most []setup.Grant) (missing, excess []string) {
	for _, g := range least {
		for _, p := range g.Privs {
			if !inherits(have, g.Path, p) {
				missing = append(missing, p+" on "+g.Path)
			}
		}
	}
	useful := map[string]bool{"Sys.Audit": true, "Pool.Audit": true, "SDN.Audit": true, "Mapping.Audit": true, "Mapping.Use": true}
	for _, g := range most {
		for _, p := range g.Privs {
			useful[p] = true
		}
	}
	beyond := map[string]bool{}
	for _, privs := range have {
		for p := range privs {
			beyond[p] = beyond[p] || !useful[p]
		}
	}
	for p, yes := range beyond {
		if yes {
			excess = append(excess, p)
		}
	}
	slices.Sort(excess)
	return missing, excess
}

// inherits looks for a privilege on a path, or on the nearest one above it of
// which PVE tells.
func inherits(have pve.Permissions, path, privilege string) bool {
	for {
		if _, told := have[path]; told || path == "/" {
			return have.HasBelow(path, privilege)
		}
		path = path[:max(1, strings.LastIndexByte(path, '/'))]
	}
}

// list names a few.
func list(items []string) string {
	if len(items) > 6 {
		return strings.Join(items[:6], ", ") + fmt.Sprintf(" and %d more", len(items)-6)
	}
	return strings.Join(items, ", ")
}

// ha looks at the guests of this node that the HA stack manages.
func ha(ctx context.Context, env *Env) []Finding {
	if f := configured(env); f != nil {
		return f
	}
	all, err := env.PVE.Resources(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	var out []Finding
	n := 0
	for _, r := range all {
		if r.HAState == "" || r.Node != env.Node {
			continue
		}
		n++
		switch r.HAState {
		case "error", "fence", "recovery":
			out = append(out, one(Bad, "ha-manager status", "%s is in HA state %s", r.ID, r.HAState)...)
		default:
			out = append(out, wantedOfHA(env, r)...)
		}
	}
	if out == nil {
		return ok("%d guests of this node are managed by HA, none in trouble", n)
	}
	return out
}

// wantedOfHA says that a guest whose document wants something else of it is
// kept otherwise by the HA stack.
func wantedOfHA(env *Env, r pve.Resource) []Finding {
	if env.Agent == nil {
		return nil
	}
	for _, v := range env.Agent.Engine.Guests {
		if v.ID != r.ID || v.Wanted == "" || v.Run == v.Wanted || v.Run == "" {
			continue
		}
		return one(Warn, "say ha = \"request\" in its document, or change it by ha-manager",
			"%s is %s and wanted %s, and the HA stack keeps it (state %s)", r.ID, v.Run, v.Wanted, r.HAState)
	}
	return nil
}

func hooks(ctx context.Context, env *Env) []Finding {
	if env.Hooks == nil {
		return unknown("root may look")
	}
	all, err := env.Hooks(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	var out []Finding
	var without []string
	managed := map[guest.ID]bool{}
	if env.Agent != nil {
		for _, v := range env.Agent.Engine.Guests {
			managed[v.ID] = true
		}
	}
	for _, s := range all {
		switch {
		case s.Trouble != "":
			out = append(out, one(Bad, "felhom-agent hook status "+s.Guest.VMID.String(), "%s: %s", s.Guest, s.Trouble)...)
		case !s.Installed && managed[s.Guest]:
			without = append(without, s.Guest.String())
		}
	}
	if len(without) > 0 {
		out = append(out, one(Warn, "felhom-agent hook install --all", "managed, and without the hookscript, so their changes are noticed later: %s", list(without))...)
	}
	if out == nil {
		return ok("no guest of %d has a hookscript in trouble, and no managed one lacks it", len(all))
	}
	return out
}
