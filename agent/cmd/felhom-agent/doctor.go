// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/agent/internal/doctor"
	"github.com/felhom/felhom-agent/agent/internal/hookinstall"
	"github.com/felhom/felhom-agent/agent/internal/setup"
	"github.com/felhom/felhom-agent/agent/internal/sysbus"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// doctorTime bounds all checks together.
const doctorTime = 2 * time.Minute

func cmdDoctor(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "doctor", "check every precondition; changes nothing and needs no running agent.\nExit status: 0 nothing is bad, 1 something is.").withJSON()
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return exitError, err
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTime)
	defer cancel()
	all := doctor.Run(ctx, doctorEnv(ctx, cfg))
	code := exitOK
	if doctor.Worst(all) == doctor.Bad {
		code = exitError
	}
	if f.json {
		return code, printJSON(e.stdout, all)
	}
	return code, writeFindings(e, all)
}

func writeFindings(e *env, all []doctor.Finding) error {
	colour := map[doctor.Verdict]func(string) string{
		doctor.OK: e.style.green, doctor.Warn: e.style.yellow, doctor.Bad: e.style.red, doctor.Unknown: e.style.dim,
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, f := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", colour[f.Verdict](fmt.Sprintf("%-7s", f.Verdict)), f.Check, indentLines(f.Reason))
		if f.Remedy != "" {
			fmt.Fprintf(tw, "\t\t-> %s\n", f.Remedy)
		}
	}
	return tw.Flush()
}

// doctorEnv gathers what the checks look at; what cannot be had stays nil,
// with its reason.
func doctorEnv(ctx context.Context, cfg config.Config) *doctor.Env {
	env := &doctor.Env{Config: cfg, Now: time.Now(), Bus: sysbus.System, Proc: "/proc", Root: os.Geteuid() == 0}
	env.Node, _ = nodeName(cfg)
	short, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var st agent.Status
	if env.AgentErr = control.NewClient(cfg.Control.Socket).Get(short, "/v1/status", &st); env.AgentErr == nil {
		env.Agent = &doctor.Agent{PID: st.PID, Engine: st.Engine, Plugins: st.Plugins, Power: st.Power}
	}
	if c, err := nodeClient(cfg); err == nil {
		env.PVE = c
	} else {
		env.PVEErr = err
	}
	if env.Root {
		env.Hooks = func(ctx context.Context) ([]hookinstall.Standing, error) { return standings(ctx, env.Node) }
	}
	return env
}

// nodeClient asks PVE as the agent does. While the service is down its
// credential is not there; then the file that it is made from will do.
func nodeClient(cfg config.Config) (*pve.Client, error) {
	raw, err := os.ReadFile(cfg.PVE.TokenFile)
	if errors.Is(err, fs.ErrNotExist) && cfg.PVE.TokenFile == setup.Credential {
		raw, err = os.ReadFile(setup.Options{Etc: "/etc/felhom-agent"}.TokenFile())
	}
	if err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	token, err := pve.ParseToken(string(raw))
	if err != nil {
		return nil, fmt.Errorf("the token in %s: %w", cfg.PVE.TokenFile, err)
	}
	o := pve.Options{URL: cfg.PVE.URL, Token: token, ServerName: cfg.PVE.ServerName, Pins: cfg.PVE.Pins}
	if cfg.PVE.CAFile != "" {
		if o.CA, err = os.ReadFile(cfg.PVE.CAFile); err != nil {
			return nil, fmt.Errorf("the CA: %w", err)
		}
	}
	return pve.New(o)
}

// standings tells how the hookscript of every guest of the node stands.
func standings(ctx context.Context, node string) ([]hookinstall.Standing, error) {
	facts, err := hookinstall.Gather(ctx, runCommand, node)
	if err != nil {
		return nil, err
	}
	snippet, err := os.ReadFile(shippedSnippet)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	in := &hookinstall.Installer{Facts: facts, Run: runCommand, Snippet: snippet}
	all, err := facts.Find(nil)
	if err != nil {
		return nil, err
	}
	var out []hookinstall.Standing
	for _, g := range all {
		s, err := in.Status(ctx, g)
		if err != nil {
			s.Trouble = cmp.Or(s.Trouble, err.Error())
		}
		out = append(out, s)
	}
	return out, nil
}
