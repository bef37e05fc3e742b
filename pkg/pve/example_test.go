// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// Start a container and say what became of it.
func ExampleClient_Power() {
	ca, err := os.ReadFile("/etc/pve/pve-root-ca.pem")
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := pve.ParseToken(os.Getenv("PVE_TOKEN"))
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := pve.New(pve.Options{URL: "https://localhost:8006", Token: token, CA: ca})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	ct := pve.Ref{Node: "pve1", ID: guest.ID{Kind: guest.LXC, VMID: 101}}
	task, err := c.Power(ctx, ct, pve.Start, 0)
	switch {
	case errors.Is(err, pve.ErrRunning):
		fmt.Println("runs already")
	case errors.Is(err, pve.ErrUnknownOutcome):
		fmt.Println("look for the task before trying again:", err)
	case err != nil:
		fmt.Println("nothing happened:", err)
	default:
		status, err := c.Wait(ctx, task, pve.DefaultPoll)
		fmt.Println(status.Exit(), status.Text, err)
	}
}

func ExampleParseUPID() {
	u, err := pve.ParseUPID("UPID:pve1:00000ECF:0002E7C5:6B03F3D8:vzstart:101:agent@pve!full:")
	fmt.Println(u.Type, u.ID, u.User, u.Started().UTC().Format("2006-01-02 15:04:05"), err)
	// Output: vzstart 101 agent@pve!full 2026-11-23 08:05:44 <nil>
}
