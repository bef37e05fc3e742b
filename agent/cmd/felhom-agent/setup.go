// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/setup"
)

// setupFlags are the options of setup.
type setupFlags struct {
	*flags
	role                 string
	run, refresh         bool
	newToken, showToken  bool
	etc, pveDir, unitDir string
	major                int
}

func cmdSetup(ctx context.Context, e *env, args []string) (int, error) {
	f := &setupFlags{flags: newFlags(e, "setup", "print, and with --run carry out, what the agent needs in PVE and here.")}
	f.StringVar(&f.role, "role", "", "`what` the agent may do: observe, operate, provision or full (default: what the configuration asks for)")
	f.BoolVar(&f.run, "run", false, "carry it out, as root on the node")
	f.BoolVar(&f.refresh, "refresh", false, "after certificates changed: copy the CA again, show the pin of the node's own")
	f.BoolVar(&f.newToken, "new-token", false, "replace the token, whose secret is lost or known to somebody")
	f.BoolVar(&f.showToken, "show-token", false, "print the token as well")
	f.IntVar(&f.major, "pve", 0, "the `major` version of PVE (default: ask this node)")
	f.StringVar(&f.etc, "etc", "/etc/felhom-agent", "`directory` for token and CA")
	f.StringVar(&f.pveDir, "pve-dir", "/etc/pve", "`directory` of PVE's cluster file system")
	f.StringVar(&f.unitDir, "unit-dir", "/etc/systemd/system", "`directory` for the service's drop-in")
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return exitError, err
	}
	if f.refresh || f.run {
		if err := needRoot("it changes PVE's users and writes a file that only root may read"); err != nil {
			return exitError, err
		}
	}
	o, err := f.options(ctx, e, cfg)
	if err != nil {
		return exitError, err
	}
	if f.refresh {
		return f.doRefresh(e, o, cfg)
	}
	return exitOK, f.setup(ctx, e, o)
}

func (f *setupFlags) options(ctx context.Context, e *env, cfg config.Config) (setup.Options, error) {
	o := setup.Options{Etc: f.etc, PVE: f.pveDir, Units: f.unitDir, NewToken: f.newToken, Run: runCommand, Major: f.major}
	var err error
	if o.Role, err = f.wantedRole(cfg); err != nil {
		return o, err
	}
	if o.Node, err = nodeName(cfg); err != nil {
		return o, err
	}
	if o.Major == 0 && !f.refresh {
		o.Major, err = pveMajor(ctx)
		if err != nil && !f.run {
			fmt.Fprintf(e.stderr, "note: the version of PVE is not known, 9 is taken (--pve says another): %v\n", err)
			o.Major, err = 9, nil
		}
	}
	return o, err
}

// wantedRole is the one that was named, else the least that serves what the
// configuration allows.
func (f *setupFlags) wantedRole(cfg config.Config) (setup.Role, error) {
	switch {
	case f.role != "":
		return setup.ParseRole(f.role)
	case cfg.Agent.Mode != config.Enforce:
		return setup.Observe, nil
	case cfg.Agent.AllowAdditive:
		return setup.Provision, nil
	}
	return setup.Operate, nil
}

// pveMajor asks the node for its version.
func pveMajor(ctx context.Context) (int, error) {
	out, err := runCommand(ctx, "pvesh", "get", "/version", "--output-format", "json")
	if err != nil {
		return 0, err
	}
	var v struct{ Version string }
	if err := json.Unmarshal(out, &v); err != nil {
		return 0, fmt.Errorf("pvesh get /version: answer not understood: %w", err)
	}
	first, _, _ := strings.Cut(v.Version, ".")
	return strconv.Atoi(first)
}

func (f *setupFlags) setup(ctx context.Context, e *env, o setup.Options) error {
	steps, err := o.Steps()
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "# node %s, role %s, PVE %d\n", o.Node, o.Role, o.Major)
	for _, s := range steps {
		if !f.run && !strings.HasPrefix(s.What, "pveum") {
			fmt.Fprint(e.stdout, "# ")
		}
		fmt.Fprintln(e.stdout, s.What)
		if !f.run {
			continue
		}
		if err := s.Do(ctx); err != nil {
			return err
		}
	}
	if f.showToken {
		if err := showToken(e, o); err != nil {
			return err
		}
	}
	return f.after(e, o)
}

func showToken(e *env, o setup.Options) error {
	b, err := os.ReadFile(o.TokenFile())
	if err != nil {
		return fmt.Errorf("the token: %w", err)
	}
	fmt.Fprintf(e.stdout, "\nThe token, for whoever was meant to see it:\n%s", b)
	return nil
}

// after says what is left to do, and what the role cannot do.
func (f *setupFlags) after(e *env, o setup.Options) error {
	w := e.stdout
	custom, err := o.CustomCert()
	if err != nil && !errors.Is(err, os.ErrPermission) {
		return err
	}
	fmt.Fprintf(w, "\n# Then in %s:\n[agent]\nnode = %q\n[pve]\nurl = \"https://127.0.0.1:8006\"\ntoken_file = %q\n", f.config, o.Node, setup.Credential)
	if custom != nil {
		fmt.Fprintf(w, "# the node shows a certificate of its own, good until %s\npins = [%q]\n", custom.NotAfter.Format("2006-01-02"), custom.Pin)
	} else {
		fmt.Fprintf(w, "ca_file = %q\n", o.CAFile())
	}
	fmt.Fprintln(w, "# and: systemctl daemon-reload && systemctl restart felhom-agent && felhom-agent doctor")
	fmt.Fprintf(w, "\n# With role %s the agent cannot:\n", o.Role)
	for _, c := range o.Role.Cannot(o.Major) {
		fmt.Fprintf(w, "#   %s\n", c)
	}
	if !f.run {
		fmt.Fprintln(w, "\n# Nothing was done. `felhom-agent setup --run` carries it out.")
	}
	return nil
}

func (f *setupFlags) doRefresh(e *env, o setup.Options, cfg config.Config) (int, error) {
	lines, err := o.Refresh(cfg.PVE.Pins)
	for _, l := range lines {
		fmt.Fprintln(e.stdout, l)
	}
	return exitOK, err
}
