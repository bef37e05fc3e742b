// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"slices"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// guestKeys are the keys of a guest; any netN is one too.
var guestKeys = []string{
	"kind", "run", "stop", "stop_timeout", "mode", "on_manual_change", "ignore", "ha",
	"cores", "memory", "swap", "description", "tags", "onboot", "startup", "hostname", "name",
	"net0", "delete", "disk", "config", "provision",
}

// maxStop bounds how long a clean shutdown may take.
const maxStop = 24 * time.Hour

// guestReader reads the table of one guest.
type guestReader struct {
	opt   Options
	forms *guest.Table
	at    field // the guest's own table
	g     *Guest
	set   map[string]field // config keys that were set, and by what
	disks map[string]field
	names []string // see configKeys
}

func newGuestReader(opt Options, file string, id guest.VMID, at field) *guestReader {
	return &guestReader{
		opt: opt, forms: opt.Forms, at: at,
		g:     &Guest{VMID: id, Provider: opt.Provider, File: file, Line: at.line},
		set:   map[string]field{},
		disks: map[string]field{},
	}
}

// read returns the guest. What it reported is no longer complete.
func (r *guestReader) read() *Guest {
	members, ok := r.at.members()
	if !ok || !r.kind(members) {
		return r.g
	}
	var late []field
	for _, m := range members {
		switch m.name {
		case "delete", "provision": // compared with what the others set
			late = append(late, m)
		default:
			r.field(m)
		}
	}
	for _, m := range late {
		r.field(m)
	}
	r.g.Revision = r.g.revision(r.secret)
	return r.g
}

// kind reads the kind, without which no config key has a meaning.
func (r *guestReader) kind(members []field) bool {
	i := slices.IndexFunc(members, func(m field) bool { return m.name == "kind" })
	if i < 0 {
		r.at.fail("kind is missing", "", `add kind = "lxc" or kind = "qemu"`)
		return false
	}
	k, ok := members[i].word(string(guest.LXC), string(guest.QEMU))
	r.g.Kind = guest.Kind(k)
	return ok
}

// field reads one key of the guest.
func (r *guestReader) field(m field) {
	switch m.name {
	case "kind":
	case "delete":
		r.deletions(m)
	case "disk":
		r.disk(m)
	case "config":
		r.config(m)
	case "provision":
		r.provision(m)
	default:
		if !r.behaviour(m) && !r.setting(m) {
			m.unknown(guestKeys)
		}
	}
}

// behaviour reads the keys that say what the agent does about the guest.
func (r *guestReader) behaviour(m field) bool {
	var s string
	switch m.name {
	case "run":
		s, _ = m.word(string(guest.Running), string(guest.Stopped))
		r.g.Run = guest.RunState(s)
	case "stop":
		s, _ = m.word(string(StopShutdown), string(StopForce))
		r.g.Stop = StopWay(s)
	case "stop_timeout":
		r.g.StopTimeout, _ = m.duration(time.Second, maxStop)
	case "mode":
		s, _ = m.word(string(Enforce), string(Observe), string(Paused))
		r.g.Mode = Mode(s)
	case "ha":
		r.g.HA, _ = m.word("request")
	case "ignore":
		r.ignore(m)
	case "on_manual_change":
		r.onManual(m)
	default:
		return false
	}
	return true
}

// ignore reads the fields that are never compared.
func (r *guestReader) ignore(m field) {
	items, _ := m.words(false)
	for _, item := range items {
		if item.name == RunField || r.known(item) {
			r.g.Ignore = append(r.g.Ignore, item.name)
		}
	}
	slices.Sort(r.g.Ignore)
}

// manualConfig is the name of all config keys in on_manual_change.
const manualConfig = "config"

// onManual reads a word for everything, or a table of words.
func (r *guestReader) onManual(m field) {
	words := []string{string(Revert), string(Hold)}
	if _, isTable := m.val.(*table); !isTable {
		if _, isText := m.val.(string); !isText {
			m.wrongKind(orList(words)+", or a table of them by field", "")
			return
		}
		s, _ := m.word(words...)
		r.g.OnManualDefault = OnManual(s)
		return
	}
	members, _ := m.members()
	if len(members) > 0 {
		r.g.OnManual = map[string]OnManual{}
	}
	for _, f := range members {
		s, ok := f.word(words...)
		switch {
		case !ok:
		case f.name == manualConfig:
			r.g.OnManualDefault = OnManual(s)
		case f.name == RunField || r.known(f):
			r.g.OnManual[f.name] = OnManual(s)
		}
	}
	// OnManualDefault speaks for the run state too, "config" does not.
	if _, said := r.g.OnManual[RunField]; !said && r.g.OnManualDefault != "" {
		r.g.OnManual[RunField] = Hold
	}
}

// known reports whether an item names a config key of the guest's kind.
func (r *guestReader) known(f field) bool {
	if f.name == "" {
		return false
	}
	if _, ok := r.forms.Form(r.g.Kind, f.name); ok {
		return true
	}
	do := fmt.Sprintf("see felhom-desired(5) for the keys of %s", r.g.Kind)
	if near := nearest(f.name, r.configKeys()); near != "" {
		do = "did you mean " + near + "?"
	}
	f.fail(fmt.Sprintf("%s is not a config key of kind %s", quote(f.name), r.g.Kind), "", do)
	return false
}

// configKeys are the names of the config keys of the guest's kind that may be
// written at all, to suggest one.
func (r *guestReader) configKeys() []string {
	if r.names == nil {
		for _, f := range r.forms.Forms(r.g.Kind) {
			if f.Class != guest.Never {
				r.names = append(r.names, trimIndex(f.Key))
			}
		}
	}
	return r.names
}
