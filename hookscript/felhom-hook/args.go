// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strconv"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest/id"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// maxBudget bounds what -budget may ask for: nobody means to hold a guest for
// longer.
const maxBudget = 10 * time.Second

// parse reads the command line by hand: package flag would link fmt and
// reflect. The options are for tests and demonstrations; there are no
// environment variables for them, as root's environment is not always root's
// own doing.
func parse(args []string) (options, error) {
	o := options{socket: hook.DefaultSocket, spool: hook.DefaultSpool, closed: hook.DefaultClosed, budget: hook.DefaultBudget}
	for len(args) > 2 {
		if err := o.set(args[0], args[1]); err != nil {
			return o, err
		}
		args = args[2:]
	}
	if len(args) != 2 {
		return o, errors.New(usage)
	}
	vmid, err := id.ParseVMID(args[0])
	if err != nil {
		return o, err
	}
	o.vmid, o.phase = vmid, id.Phase(args[1])
	if !o.phase.Valid() {
		return o, errors.New(strconv.Quote(args[1]) + " is not a phase (pre-start, post-start, pre-stop or post-stop)")
	}
	return o, nil
}

func (o *options) set(name, value string) error {
	switch name {
	case "-socket":
		o.socket = value
	case "-spool":
		o.spool = value
	case "-closed":
		o.closed = value
	case "-budget":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || time.Duration(n) > maxBudget/time.Millisecond {
			return errors.New(strconv.Quote(value) + " is not a budget (milliseconds from 0 to 10000)")
		}
		o.budget = time.Duration(n) * time.Millisecond
	default:
		return errors.New(usage)
	}
	return nil
}
