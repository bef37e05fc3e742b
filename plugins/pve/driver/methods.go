// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

// method is how one kind of action is carried out.
type method struct {
	// params are the parameters it takes; config says that it takes config
	// keys, digest that it cannot do without one.
	params []string
	config bool
	digest bool
	// approved: it was approved for exactly the guest of that digest. With
	// another one it is refused; others are planned anew.
	approved bool
	// check refuses what makes no sense beyond that.
	check func(a plugin.Action) error
	// send looks, and sends at most once.
	send func(d *Driver, ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error)
	// types and id are those of the task that it becomes; an empty id stands
	// for the VMID.
	types func(a plugin.Action) []string
	id    func(a plugin.Action) string
	// about tells whether the log of a task of that id and type is about this
	// action; nil if there is no doubt.
	about func(a plugin.Action, log []string) (is, sure bool)
	// effect looks whether it has happened once its task is over; nil if
	// nothing shows.
	effect func(d *Driver, ctx context.Context, j *job, u pve.UPID) (effect, error)
	// finish completes the outcome of a task that has ended.
	finish func(d *Driver, ctx context.Context, j *job, u pve.UPID, o plugin.Outcome) plugin.Outcome
	// passes: a task that failed at a lock has done nothing. refuses: neither
	// has one that ended with one of PVE's refusals.
	passes, refuses bool
}

// effect is what shows of an action.
type effect struct {
	happened, known bool
	seen            string
	params          map[string]string
}

func happened(yes bool, seen string) effect { return effect{happened: yes, known: true, seen: seen} }

func power() method {
	return method{send: (*Driver).power, types: powerTypes, effect: (*Driver).runState, passes: true}
}

// methodOf is how a kind is carried out; ok is false for a kind that is not
// served.
func methodOf(k plugin.ActionKind) (m method, ok bool) {
	switch k {
	case plugin.Start, plugin.Stop:
		return power(), true
	case plugin.Shutdown:
		m = power()
		m.params = []string{"timeout"}
		return m, true
	case plugin.Reboot:
		m = power()
		// A reboot has stopped the guest when its start fails at a lock.
		m.params, m.effect, m.passes = []string{"timeout"}, nil, false
		return m, true
	case plugin.SetConfig:
		return method{config: true, digest: true, check: checkSetConfig, send: (*Driver).setConfig, effect: (*Driver).written, passes: true}, true
	case plugin.Provision:
		return provisionMethod(), true
	case plugin.Restore:
		return restoreMethod(), true
	case plugin.Destroy:
		return destroyMethod(), true
	case plugin.GrowDisk:
		return growMethod(), true
	case plugin.TakeSnapshot:
		return takeMethod(), true
	case plugin.Rollback, plugin.DeleteSnapshot:
		return snapshotMethod(k), true
	case plugin.Backup:
		return backupMethod(), true
	case plugin.DeleteBackup, plugin.DeleteVolume:
		return volumeMethod(k), true
	}
	return method{}, false
}

// check refuses what makes no sense before anything is sent.
func (d *Driver) check(a plugin.Action) error {
	m, ok := methodOf(a.Kind)
	switch {
	case !ok:
		return unsupported(a.Kind)
	case !m.config && (len(a.Set) > 0 || len(a.Delete) > 0):
		return invalid("%s takes no config keys", a.Kind)
	case m.digest && a.Digest == "":
		return invalid("%s without the digest it rests on", a.Kind)
	case a.Node != "" && a.Node != d.opts.Node:
		return invalid("guest %s is on node %s, this is %s", a.Guest, a.Node, d.opts.Node)
	case !a.Guest.Kind.Valid(), a.Guest.VMID < guest.MinVMID, a.Guest.VMID > guest.MaxVMID:
		return invalid("%q is no guest", a.Guest)
	}
	for p := range a.Params {
		if !slices.Contains(m.params, p) {
			return invalid("%s has no parameter %q", a.Kind, p)
		}
	}
	if _, err := timeout(a); err != nil {
		return err
	}
	if _, _, err := reserve(a); err != nil {
		return err
	}
	if m.check == nil {
		return nil
	}
	return m.check(a)
}

// taskID is the id of the task that an action becomes.
func (m method) taskID(a plugin.Action) string {
	if m.id == nil {
		return a.Guest.VMID.String()
	}
	return m.id(a)
}

// ofKind is a task type of the guest's kind: "vzcreate", "qmcreate".
func ofKind(a plugin.Action, name string) string {
	if a.Guest.Kind == guest.QEMU {
		return "qm" + name
	}
	return "vz" + name
}
