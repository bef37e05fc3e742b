// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/setup"
	"github.com/felhom/felhom-agent/agent/internal/signers"
)

// approvals holds what people may sign against what PVE lets the token do: an
// approval that only meets a 403 is noticed when it is needed.
func approvals(ctx context.Context, env *Env) []Finding {
	if _, err := os.Stat(env.Config.Gate.AllowedSigners); errors.Is(err, fs.ErrNotExist) {
		return ok("nobody may sign one")
	}
	keys, err := signers.Of(env.Config).Load()
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
	have, major, f := tokenMay(ctx, env)
	if f != nil {
		return f
	}
	all := setup.Full.Grants(major)
	if missing, _ := compare(have, all, all); len(missing) > 0 {
		return one(Warn, "felhom-agent setup --run --role full, or let nobody sign approvals",
			"%s lets people approve what PVE then refuses (destroy, roll back, restore over a guest, delete): the token lacks %s",
			env.Config.Gate.AllowedSigners, list(missing))
	}
	return ok("the token may do what people may approve")
}
