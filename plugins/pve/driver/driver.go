// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// Driver is a plugin.Executor and a plugin.Observer. The zero Driver answers
// every call with ErrUnavailable until Configure has been called; New makes
// one that is ready.
type Driver struct {
	// Version is what Describe tells as the plugin's version.
	Version string

	opts  Options
	pve   *pve.Client
	forms *guest.Table
	calls *calls
	kinds kinds
}

// Options are what a Driver needs to know.
type Options struct {
	Client *pve.Client
	// Node is the name of the node to act on and to observe.
	Node string
	// VMList is the path of the cluster file system's .vmlist; "" or a file
	// that cannot be read does without.
	VMList string
	// Poll is how often Watch asks PVE. PollFile is how often it looks at the
	// VMList, which costs PVE nothing.
	Poll, PollFile time.Duration
	// Wall is the host's wall clock; nil = time.Now.
	Wall func() time.Time
}

// The defaults of Options.
const (
	DefaultPoll     = 2 * time.Second
	DefaultPollFile = 500 * time.Millisecond
)

// New makes a Driver.
func New(o Options) (*Driver, error) {
	d := &Driver{}
	if err := d.set(o); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Driver) set(o Options) error {
	if o.Client == nil {
		return errors.New("driver: no client")
	}
	if !pve.ValidNode(o.Node) {
		return fmt.Errorf("driver: %q is not a node name", o.Node)
	}
	if o.Poll <= 0 {
		o.Poll = DefaultPoll
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.PollFile <= 0 {
		o.PollFile = DefaultPollFile
	}
	d.opts, d.pve, d.forms, d.calls = o, o.Client, guest.Standard(), newCalls()
	return nil
}

// Describe names the plugin and the actions it carries out.
func (d *Driver) Describe(context.Context) (plugin.Info, error) {
	return plugin.Info{
		Name: "pve", Version: orElse(d.Version, "devel"),
		Actions: plugin.CoreActions(),
	}, nil
}

// ready is the error of a Driver that was not configured.
func (d *Driver) ready() error {
	if d.pve == nil {
		return fmt.Errorf("%w: not configured", plugin.ErrUnavailable)
	}
	return nil
}

func (d *Driver) ref(id guest.ID) pve.Ref { return pve.Ref{Node: d.opts.Node, ID: id} }

// now is the present time by the node's clock.
func (d *Driver) now() time.Time {
	if t := d.pve.NodeTime(); !t.IsZero() {
		return t
	}
	return d.opts.Wall()
}

// readError gives the error of a read its kind on the wire.
func readError(err error) error {
	if errors.Is(err, pve.ErrDenied) {
		return fmt.Errorf("%w: %w", plugin.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", plugin.ErrUnavailable, err)
}
