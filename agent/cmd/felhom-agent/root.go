// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
)

// needRoot refuses what only root may do, with the reason.
func needRoot(why string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return errors.New("run this as root: " + why)
}

// commandTime bounds one of PVE's commands. pct waits ten seconds for a lock.
const commandTime = 2 * time.Minute

// runCommand runs one of PVE's commands, found by PATH. What it says on stderr
// is the error.
func runCommand(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("there is no command %s: is this a Proxmox VE node?", name)
		}
		words := strings.TrimSpace(errs.String())
		return nil, fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), cmp.Or(words, err.Error()))
	}
	return out.Bytes(), nil
}

// nodeName is this node's name in PVE.
func nodeName(cfg config.Config) (string, error) {
	if cfg.Agent.Node != "" {
		return cfg.Agent.Node, nil
	}
	return shortHostname()
}
