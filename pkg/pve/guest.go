// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Ref names a guest where it is.
type Ref struct {
	Node string
	ID   guest.ID
}

func (r Ref) path() string { return "/nodes/" + r.Node + "/" + r.ID.String() }

var nodePattern = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// ValidNode reports whether s can be the name of a node.
func ValidNode(s string) bool { return nodePattern.MatchString(s) }

// check keeps what is no reference out of a URL.
func (r Ref) check(method string) error {
	if ValidNode(r.Node) && r.ID.Kind.Valid() && r.ID.VMID >= guest.MinVMID && r.ID.VMID <= guest.MaxVMID {
		return nil
	}
	return &Error{Kind: ErrNotSent, Method: method, Path: r.path(), Err: fmt.Errorf("%q is no guest of a node", r.path())}
}

// Guest is what PVE tells of a guest at a moment.
type Guest struct {
	ID       guest.ID
	Name     string
	Run      guest.RunState // "" if PVE says neither running nor stopped
	Lock     string
	Template bool
	Tags     string // as PVE joins them, with ";"
	Uptime   time.Duration
	CPUs     float64
	MaxMem   int64 // bytes
	MaxSwap  int64 // bytes, of a container
	// QMP is a virtual machine's own idea of its state ("paused", "prelaunch");
	// only Status tells.
	QMP string
	// HA is known only from Status.
	HA HA
}

// HA is what the HA stack says of a guest.
type HA struct {
	Managed bool
	State   string
}

// rawGuest is a guest in a list and in status/current.
type rawGuest struct {
	VMID      number `json:"vmid"`
	Name      text   `json:"name"`
	Status    text   `json:"status"`
	Lock      text   `json:"lock"`
	Template  number `json:"template"`
	Tags      text   `json:"tags"`
	Uptime    number `json:"uptime"`
	CPUs      number `json:"cpus"`
	MaxMem    number `json:"maxmem"`
	MaxSwap   number `json:"maxswap"`
	QMPStatus text   `json:"qmpstatus"`
	HA        struct {
		Managed number `json:"managed"`
		State   text   `json:"state"`
	} `json:"ha"`
}

func (r rawGuest) guest(kind guest.Kind) Guest {
	g := Guest{
		ID:   guest.ID{Kind: kind, VMID: guest.VMID(r.VMID)},
		Name: string(r.Name), Lock: string(r.Lock), Template: r.Template.bool(), Tags: string(r.Tags),
		Uptime: time.Duration(float64(r.Uptime) * float64(time.Second)),
		CPUs:   float64(r.CPUs), MaxMem: int64(r.MaxMem), MaxSwap: int64(r.MaxSwap),
		QMP: string(r.QMPStatus),
		HA:  HA{Managed: r.HA.Managed.bool(), State: string(r.HA.State)},
	}
	if s := guest.RunState(r.Status); s == guest.Running || s == guest.Stopped {
		g.Run = s
	}
	return g
}

// Guests lists the guests of a node that the token may audit, containers
// before virtual machines, in VMID order. A guest that is not in it may still
// exist.
func (c *Client) Guests(ctx context.Context, node string) ([]Guest, error) {
	var out []Guest
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		raw, _, err := getList[rawGuest](ctx, c, "/nodes/"+node+"/"+string(kind), nil)
		if err != nil {
			return nil, err
		}
		for _, r := range raw {
			out = append(out, r.guest(kind))
		}
	}
	slices.SortFunc(out, func(a, b Guest) int {
		if a.ID.Kind != b.ID.Kind {
			return strings.Compare(string(a.ID.Kind), string(b.ID.Kind))
		}
		return int(a.ID.VMID - b.ID.VMID)
	})
	return out, nil
}

// Status reads the present state of one guest.
func (c *Client) Status(ctx context.Context, r Ref) (Guest, error) {
	var raw rawGuest
	if err := r.check(http.MethodGet); err != nil {
		return Guest{}, err
	}
	if err := c.get(ctx, r.path()+"/status/current", nil, &raw); err != nil {
		return Guest{}, err
	}
	g := raw.guest(r.ID.Kind)
	g.ID = r.ID
	return g, nil
}

// Config is a guest's config as PVE will use it at the next start: pending
// changes are in it.
type Config struct {
	Values guest.Config
	// Digest is PVE's hash over the whole file. Sent along with a change, it
	// makes PVE refuse the change if anything in the file changed since.
	Digest string
	Lock   string
	Parent string      // the snapshot this state descends from
	LXC    [][2]string // raw lxc.* lines of a container, in order
}

// Config reads a guest's config.
func (c *Client) Config(ctx context.Context, r Ref) (Config, error) {
	return c.config(ctx, r, nil)
}

// CurrentConfig reads a guest's config without its pending changes.
func (c *Client) CurrentConfig(ctx context.Context, r Ref) (Config, error) {
	return c.config(ctx, r, url.Values{"current": {"1"}})
}

func (c *Client) config(ctx context.Context, r Ref, q url.Values) (Config, error) {
	var raw map[string]json.RawMessage
	if err := r.check(http.MethodGet); err != nil {
		return Config{}, err
	}
	if err := c.get(ctx, r.path()+"/config", q, &raw); err != nil {
		return Config{}, err
	}
	conf, err := parseConfig(raw)
	if err != nil {
		return Config{}, c.garbled(r.path()+"/config", err)
	}
	return conf, nil
}

// parseConfig splits what describes the file from what it says.
func parseConfig(raw map[string]json.RawMessage) (Config, error) {
	c := Config{Values: make(guest.Config, len(raw))}
	for key, v := range raw {
		if key == "lxc" {
			if err := json.Unmarshal(v, &c.LXC); err != nil {
				return Config{}, fmt.Errorf("lxc: %w", err)
			}
			continue
		}
		s, err := scalar(v)
		if err != nil {
			return Config{}, fmt.Errorf("%s: %w", key, err)
		}
		switch key {
		case "digest":
			c.Digest = s
		case "lock":
			c.Lock = s
		case "parent":
			c.Parent = s
		case "pending", "snapshots", "snaptime", "snapstate":
		default:
			c.Values[key] = s
		}
	}
	if c.Digest == "" {
		return Config{}, fmt.Errorf("no digest in it")
	}
	return c, nil
}

// PendingChange is one key that waits for a restart.
type PendingChange struct {
	Key    string
	Value  string // to come; "" if Delete
	Delete bool
}

// Pending reads what of a guest's config waits for a restart, in key order,
// and the digest of the config it was read from.
func (c *Client) Pending(ctx context.Context, r Ref) (changes []PendingChange, digest string, err error) {
	type entry struct {
		Key     string          `json:"key"`
		Value   json.RawMessage `json:"value"`
		Pending json.RawMessage `json:"pending"`
		Delete  number          `json:"delete"`
	}
	if err := r.check(http.MethodGet); err != nil {
		return nil, "", err
	}
	entries, _, err := getList[entry](ctx, c, r.path()+"/pending", nil)
	if err != nil {
		return nil, "", err
	}
	for _, e := range entries {
		var s string
		switch {
		case e.Key == "digest":
			digest, err = scalar(e.Value)
		case e.Delete.bool():
			changes = append(changes, PendingChange{Key: e.Key, Delete: true})
		case e.Pending != nil:
			s, err = scalar(e.Pending)
			changes = append(changes, PendingChange{Key: e.Key, Value: s})
		}
		if err != nil {
			return nil, "", c.garbled(r.path()+"/pending", err)
		}
	}
	slices.SortFunc(changes, func(a, b PendingChange) int { return strings.Compare(a.Key, b.Key) })
	return changes, digest, nil
}

// PowerCall is a change of a guest's run state.
type PowerCall string

// The changes of run state.
const (
	Start    PowerCall = "start"
	Shutdown PowerCall = "shutdown" // clean
	Stop     PowerCall = "stop"     // hard
	Reboot   PowerCall = "reboot"
)

// Power asks for a change of run state. A timeout above zero bounds how long
// PVE waits for the guest; it is for Shutdown and Reboot. Of a guest under HA
// the task only records the wish.
func (c *Client) Power(ctx context.Context, r Ref, call PowerCall, timeout time.Duration) (UPID, error) {
	var form url.Values
	if timeout > 0 {
		form = url.Values{"timeout": {strconv.Itoa(int(timeout.Round(time.Second) / time.Second))}}
	}
	return c.change(ctx, http.MethodPost, r, "/status/"+string(call), form)
}

// ConfigChange is one write to a guest's config.
type ConfigChange struct {
	Set    map[string]string
	Delete []string
	// Revert drops what is pending of these keys.
	Revert []string
	// Digest is that of the config the change rests on; "" goes without.
	Digest string
}

// SetConfig writes to a guest's config. PVE answers with a task or, having
// done it, with none: then the UPID is zero.
func (c *Client) SetConfig(ctx context.Context, r Ref, ch ConfigChange) (UPID, error) {
	form := make(url.Values, len(ch.Set)+2)
	for k, v := range ch.Set {
		form.Set(k, v)
	}
	if len(ch.Delete) > 0 {
		form.Set("delete", strings.Join(ch.Delete, ","))
	}
	if len(ch.Revert) > 0 {
		form.Set("revert", strings.Join(ch.Revert, ","))
	}
	if ch.Digest != "" {
		form.Set("digest", ch.Digest)
	}
	return c.change(ctx, http.MethodPut, r, "/config", form)
}

// change makes a call that changes a guest.
func (c *Client) change(ctx context.Context, method string, r Ref, sub string, form url.Values) (UPID, error) {
	if err := r.check(method); err != nil {
		return UPID{}, err
	}
	data, err := c.Call(ctx, method, r.path()+sub, form)
	if err != nil {
		return UPID{}, err
	}
	return c.upidOf(method, r.path()+sub, data)
}
