// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/pve"
)

const (
	// destroyWithin bounds everything before the DELETE, counted from the
	// start: a DELETE that went out much later would not be looked for.
	destroyWithin = 20 * time.Second
	// putBackWithin bounds the call that puts a protection back.
	putBackWithin = 20 * time.Second
)

func destroyMethod() method {
	return method{
		params: []string{"purge"}, digest: true, approved: true, check: checkDestroy, send: (*Driver).destroy,
		types:  func(a plugin.Action) []string { return []string{ofKind(a, "destroy")} },
		effect: (*Driver).destroyed, finish: (*Driver).toldDestroyed, passes: true, refuses: true,
	}
}

func checkDestroy(a plugin.Action) error {
	if p, ok := a.Params["purge"]; ok && p != "0" && p != "1" {
		return invalid("purge: %q is neither 0 nor 1", p)
	}
	return nil
}

// destroy deletes a guest (design section 8). PVE's DELETE takes no digest, so
// a write to the config goes first, which does: it fails if the config was
// replaced. Then the guest is read again and compared with what the write was
// made to, and the DELETE goes out at once. Never one without the other.
func (d *Driver) destroy(ctx context.Context, j *job) (pve.UPID, plugin.Outcome, error) {
	look, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	first, o, err := d.condemned(look, j)
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	unsure, o, err := d.unprotect(look, j, first)
	if err != nil || o.Status != "" {
		return pve.UPID{}, o, err
	}
	second, o := d.stillCondemned(look, j, first, unsure)
	if o.Status != "" {
		return pve.UPID{}, o, nil
	}
	upid, err := d.pve.Destroy(ctx, j.ref, j.Params["purge"] == "1")
	if err == nil {
		return upid, plugin.Outcome{Status: plugin.Done, Message: "PVE answered without a task"}, nil
	}
	return d.notDestroyed(ctx, j, first, second, err)
}

// condemned is a guest to be destroyed, as it is at one moment.
type condemned struct {
	run       guest.RunState
	conf      pve.Config
	snapshots []pve.Snapshot
}

func (c condemned) protected() bool { return c.conf.Values["protection"] == "1" }

// behold reads the guest: the config last, and only if the snapshots are of
// the same moment.
func (d *Driver) behold(ctx context.Context, j *job) (condemned, error) {
	for range reReads {
		g, err := d.pve.Status(ctx, j.ref)
		if err != nil {
			return condemned{}, err
		}
		list, digest, err := d.pve.Snapshots(ctx, j.ref)
		if err != nil {
			return condemned{}, err
		}
		conf, err := d.pve.Config(ctx, j.ref)
		if err != nil {
			return condemned{}, err
		}
		if digest == conf.Digest {
			return condemned{run: g.Run, conf: conf, snapshots: list}, nil
		}
	}
	return condemned{}, fmt.Errorf("the config changed %d times while it was read", reReads)
}

// condemned looks at the guest: it must be the one that was approved, at rest.
func (d *Driver) condemned(ctx context.Context, j *job) (condemned, plugin.Outcome, error) {
	c, err := d.behold(ctx, j)
	if err != nil {
		o, err := lookFailed(err)
		return c, o, err
	}
	switch {
	case c.conf.Lock != "":
		return c, locked(j, c.conf.Lock), nil
	case c.conf.Digest != j.Digest:
		return c, refused("the config is not the one that was approved: its digest is %s, not %s; nothing was sent", c.conf.Digest, j.Digest), nil
	case c.run != guest.Stopped:
		return c, refused("%s is not stopped; nothing was sent", j.Guest), nil
	}
	return c, plugin.Outcome{}, nil
}

// unprotect clears the protection with the digest that was read, whether or
// not there is one to clear: that the write is taken shows that the config is
// still that one. unsure says that the answer did not show that.
func (d *Driver) unprotect(ctx context.Context, j *job, first condemned) (unsure bool, o plugin.Outcome, err error) {
	_, err = d.pve.SetConfig(ctx, j.ref, pve.ConfigChange{Delete: []string{"protection"}, Digest: first.conf.Digest})
	if err == nil {
		return false, plugin.Outcome{}, nil
	}
	o = plugin.Outcome{Message: words(err) + ": the protection was not cleared, the guest was not deleted"}
	switch kind := pve.KindOf(err); kind {
	case pve.ErrNotSent:
		return false, o, fmt.Errorf("%w: %w", plugin.ErrNotSent, err)
	case pve.ErrUnknownOutcome:
		o.Message = err.Error() + ": whether the protection was cleared is not known; the guest was not deleted"
		return false, retry(o, reasonTransient, afterUnreachable), nil
	case pve.ErrUnreachable:
		return false, retry(o, reasonUnreachable, afterUnreachable), nil
	case pve.ErrChanged:
		return false, refused("the config was changed or replaced since it was read: %s", o.Message), nil
	case pve.ErrDenied, pve.ErrNoGuest, pve.ErrInvalid, pve.ErrUnsupported:
		return false, refused("%s", o.Message), nil
	default:
		if o, ok := weather(kind, o); ok {
			return false, o, nil
		}
		// A container whose bridge is missing answers every write with an
		// error and takes it (design section 14.11).
		return true, plugin.Outcome{}, nil
	}
}

// stillCondemned reads the guest once more. Nothing but the protection may
// differ from what the write was made to. If the write's answer did not show
// that it was taken, the config has to.
func (d *Driver) stillCondemned(ctx context.Context, j *job, first condemned, unsure bool) (condemned, plugin.Outcome) {
	second, err := d.behold(ctx, j)
	switch kind := pve.KindOf(err); {
	case kind == pve.ErrNoGuest:
		return second, refused("%s is gone: %s", j.Guest, words(err))
	case err != nil:
		o := plugin.Outcome{Message: "the guest could not be read again, so it was not deleted; its protection may be off: " + words(err)}
		return second, retry(o, reasonTransient, afterTransient)
	}
	if diff := first.differs(second); diff != "" {
		return second, refused("the guest is not the one that was approved any more, it was not deleted: %s%s", diff, off(first, second))
	}
	if unsure && !(first.protected() && !second.protected()) {
		return second, plugin.Outcome{Status: plugin.Failed, Message: "PVE did not take the write that shows whose config it is; the guest was not deleted"}
	}
	return second, plugin.Outcome{}
}

// off says that a guest was left without its protection.
func off(first, second condemned) string {
	if first.protected() && !second.protected() {
		return "; its protection is off"
	}
	return ""
}

// differs says what differs but for the protection, "" if nothing does.
func (c condemned) differs(now condemned) string {
	var out []string
	switch {
	case now.conf.Lock != "":
		out = append(out, "it is locked ("+now.conf.Lock+")")
	case now.run != guest.Stopped:
		out = append(out, "it is not stopped")
	}
	keys := maps.Clone(c.conf.Values)
	maps.Copy(keys, now.conf.Values)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		was, had := c.conf.Values[key]
		is, has := now.conf.Values[key]
		if key != "protection" && (was != is || had != has) {
			out = append(out, key+" differs")
		}
	}
	if c.conf.Parent != now.conf.Parent || !slices.Equal(c.conf.LXC, now.conf.LXC) {
		out = append(out, "its raw lines or its place among the snapshots differ")
	}
	if !slices.EqualFunc(c.snapshots, now.snapshots, sameSnapshot) {
		out = append(out, "its snapshots differ")
	}
	return strings.Join(out, ", ")
}

func sameSnapshot(a, b pve.Snapshot) bool {
	return a.Name == b.Name && a.Parent == b.Parent && a.State == b.State && a.Description == b.Description && a.Time.Equal(b.Time)
}

// notDestroyed is what the error of the DELETE means. If it certainly was
// refused, the protection is put back on the config that was read last, and on
// no other.
func (d *Driver) notDestroyed(ctx context.Context, j *job, first, second condemned, err error) (pve.UPID, plugin.Outcome, error) {
	o, oerr := d.outcome(ctx, j, err)
	if o.Status == plugin.Unknown || !first.protected() {
		return pve.UPID{}, o, oerr
	}
	ctx, cancel := context.WithTimeout(ctx, putBackWithin)
	defer cancel()
	_, perr := d.pve.SetConfig(ctx, j.ref, pve.ConfigChange{Set: map[string]string{"protection": "1"}, Digest: second.conf.Digest})
	switch {
	case perr == nil:
		o.Message += "; its protection was put back"
	case oerr != nil: // the DELETE was not sent: what remains is a guest without its protection
		o = plugin.Outcome{Status: plugin.Failed, Message: oerr.Error() + "; its protection is off: " + words(perr)}
		return pve.UPID{}, o, nil
	default:
		o.Message += "; its protection is off: " + words(perr)
	}
	return pve.UPID{}, o, oerr
}

// toldDestroyed: a task that failed leaves a guest without its protection.
func (d *Driver) toldDestroyed(_ context.Context, _ *job, _ pve.UPID, o plugin.Outcome) plugin.Outcome {
	if o.Status != plugin.Done {
		o.Message += "; the protection was cleared before"
	}
	return o
}

// destroyed looks whether the guest is gone.
func (d *Driver) destroyed(ctx context.Context, j *job, _ pve.UPID) (effect, error) {
	o, err := d.observe(ctx, j.Guest.VMID)
	if err != nil {
		return effect{}, err
	}
	switch o.Presence {
	case plugin.Gone:
		return happened(true, "the guest is gone"), nil
	case plugin.Here:
		e := happened(false, "a guest is there"+lockText(o.State.Lock))
		if o.State.Lock == "destroyed" {
			e.params = map[string]string{ParamHalfMade: o.State.Lock}
		}
		return e, nil
	}
	return effect{seen: "the guest is " + string(o.Presence) + ": " + o.ConfigError}, nil
}
