// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/setup"
	"github.com/felhom/felhom-agent/agent/internal/signers"
)

// approvals holds what people may sign against what PVE lets the token do: an
// approval that only meets a 403 is noticed when it is needed.
func approvals(ctx context.Context, env *Env) []Finding {
	gated := env.Config.Gate
	if _, err := os.Stat(gated.AllowedSigners); errors.Is(err, fs.ErrNotExist) {
		return ok("nobody may sign one")
	}
	keys, err := signers.Files{Allowed: gated.AllowedSigners, Revoked: gated.RevokedKeys, Owners: owners(env.Config)}.Load()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return unknown("%v; root may look", err)
	case err != nil:
		return one(Warn, "correct it, or take the file away if nobody shall sign", "no signature is accepted: %v", err)
	case !keys.Signers.MaySign(gate.ApprovalNamespace, env.Now):
		return ok("nobody may sign one")
	}
	return approvable(ctx, env)
}

// approvable looks whether the token may do what approvals are for.
func approvable(ctx context.Context, env *Env) []Finding {
	if f := configured(env); f != nil {
		return f
	}
	v, err := env.PVE.Version(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	have, err := env.PVE.Permissions(ctx, "")
	if err != nil {
		return unknown("%v", err)
	}
	all := setup.Full.Grants(v.Major())
	if missing, _ := compare(have, all, all); len(missing) > 0 {
		return one(Warn, "felhom-agent setup --run --role full, or let nobody sign approvals",
			"%s lets people approve what PVE then refuses (destroy, roll back, restore over a guest, delete): the token lacks %s",
			env.Config.Gate.AllowedSigners, list(missing))
	}
	return ok("the token may do what people may approve")
}

// owners are the users who may own the files that say who may sign.
func owners(c config.Config) []uint32 {
	var all []uint32
	for _, uid := range c.Plugins.TrustedUIDs {
		all = append(all, uint32(uid))
	}
	return all
}
