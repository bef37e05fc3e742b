// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// User is the account whose tokens the agents of all nodes use.
const User = "felhom@pve"

// Runner runs one of PVE's commands; its error holds the command's own words.
type Runner func(ctx context.Context, name string, args ...string) ([]byte, error)

// Options say what is wanted and where.
type Options struct {
	Role  Role
	Node  string
	Major int // of PVE
	// Etc is the agent's configuration directory, PVE that of /etc/pve, Units
	// where drop-ins of systemd units are.
	Etc, PVE, Units string
	// NewToken makes a new token where there is one whose secret is lost.
	NewToken bool
	Run      Runner
}

// TokenName is the token's name of a node: it is in every UPID.
func (o Options) TokenName() string { return "agent-" + o.Node }

// TokenID is the full name.
func (o Options) TokenID() string { return User + "!" + o.TokenName() }

// TokenFile is where the token is kept, for root alone.
func (o Options) TokenFile() string { return filepath.Join(o.Etc, "token") }

// CAFile is where the copy of the cluster's CA is.
func (o Options) CAFile() string { return filepath.Join(o.Etc, "pve-root-ca.pem") }

// dropIn hands the token to the service as a credential.
func (o Options) dropIn() string {
	return filepath.Join(o.Units, "felhom-agent.service.d", "pve-token.conf")
}

// Credential is where the service finds its token.
const Credential = "/run/credentials/felhom-agent.service/pve-token"

// Step is one step, in words and as what does it.
type Step struct {
	What string
	Do   func(context.Context) error
}

// roleName is the name of a role in PVE: of this node, so that two nodes may
// have different ones. The first grant is for seeing, the others for working.
func (o Options) roleName(see bool) string {
	if see {
		return "FelhomSee"
	}
	return "FelhomAgent-" + o.Node
}

// Steps are what makes the account, in order. A token is made only if its
// secret is not here.
func (o Options) Steps() ([]Step, error) {
	have, err := o.haveToken()
	if err != nil {
		return nil, err
	}
	grants := o.Role.Grants(o.Major)
	var work []string
	for _, g := range grants[1:] {
		work = append(work, g.Privs...)
	}
	steps := []Step{
		o.role(o.roleName(true), grants[0].Privs), o.role(o.roleName(false), work),
		o.ensure([]string{"user", "add", User, "--comment", "felhom-agent"}, "already exists"),
	}
	for i, g := range grants {
		steps = append(steps, o.acl(g.Path, "--users", User, o.roleName(i == 0)))
	}
	if !have {
		steps = append(steps, o.token())
	}
	for i, g := range grants {
		steps = append(steps, o.acl(g.Path, "--tokens", o.TokenID(), o.roleName(i == 0)))
	}
	return append(steps, o.handOver(), o.copyCA()), nil
}

// command is a step that is one command; done, if not nil, looks at how it
// ended.
func (o Options) command(args []string, done func(out []byte, err error) error) Step {
	return Step{What: "pveum " + quoteAll(args), Do: func(ctx context.Context) error {
		out, err := o.Run(ctx, "pveum", args...)
		if done != nil {
			return done(out, err)
		}
		return err
	}}
}

// ensure takes it for done when it is there.
func (o Options) ensure(args []string, there string) Step {
	return o.command(args, func(_ []byte, err error) error {
		if err != nil && strings.Contains(err.Error(), there) {
			return nil
		}
		return err
	})
}

// role makes a role, or gives the one that is there exactly these privileges.
func (o Options) role(name string, privs []string) Step {
	args := []string{"role", "add", name, "--privs", strings.Join(privs, " ")}
	s := o.command(args, nil)
	add := s.Do
	s.Do = func(ctx context.Context) error {
		err := add(ctx)
		if err == nil || !strings.Contains(err.Error(), "already exists") {
			return err
		}
		_, err = o.Run(ctx, "pveum", "role", "modify", name, "--privs", strings.Join(privs, " "))
		return err
	}
	return s
}

func (o Options) acl(path, option, who, role string) Step {
	return o.command([]string{"acl", "modify", path, option, who, "--roles", role}, nil)
}

// ErrTokenLost says that PVE has the token and nobody has its secret.
var ErrTokenLost = errors.New("the token is there already, and PVE shows its secret only once")

// token makes the token and puts it away at once.
func (o Options) token() Step {
	args := []string{"user", "token", "add", User, o.TokenName(), "--privsep", "1", "--output-format", "json"}
	s := o.command(args, nil)
	s.What += "    # its secret goes to " + o.TokenFile()
	s.Do = func(ctx context.Context) error {
		out, err := o.Run(ctx, "pveum", args...)
		if err != nil && strings.Contains(err.Error(), "already exists") {
			if !o.NewToken {
				return fmt.Errorf("%w: put it into %s, or say --new-token to replace it", ErrTokenLost, o.TokenFile())
			}
			if _, err := o.Run(ctx, "pveum", "user", "token", "remove", User, o.TokenName()); err != nil {
				return err
			}
			out, err = o.Run(ctx, "pveum", args...)
		}
		if err != nil {
			return err
		}
		return o.keep(out)
	}
	return s
}

// keep writes the token that pveum has printed. Its errors do not quote it.
func (o Options) keep(out []byte) error {
	var made struct {
		ID    string `json:"full-tokenid"`
		Value string `json:"value"`
	}
	if err := json.Unmarshal(out, &made); err != nil || made.ID != o.TokenID() || made.Value == "" {
		return errors.New("what pveum printed is no token (not shown here, it may hold one)")
	}
	return writeFile(o.TokenFile(), []byte(made.ID+"="+made.Value+"\n"), 0o600)
}

// haveToken reports whether the token of this node is here.
func (o Options) haveToken() (bool, error) {
	if o.NewToken {
		return false, nil
	}
	b, err := readFile(o.TokenFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !strings.HasPrefix(string(b), o.TokenID()+"="):
		return false, fmt.Errorf("%s holds another token than %s; move it away first", o.TokenFile(), o.TokenID())
	}
	return true, nil
}

// handOver makes systemd give the token to the service, and to nobody else.
func (o Options) handOver() Step {
	text := "# Made by felhom-agent setup: the token stays readable for root alone.\n[Service]\nLoadCredential=pve-token:" + o.TokenFile() + "\n"
	return Step{What: "write " + o.dropIn() + ": LoadCredential=pve-token:" + o.TokenFile(), Do: func(context.Context) error {
		return writeFile(o.dropIn(), []byte(text), 0o644)
	}}
}

func quoteAll(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		out[i] = a
		if strings.ContainsAny(a, " !'\"") {
			out[i] = "'" + a + "'"
		}
	}
	return strings.Join(out, " ")
}
