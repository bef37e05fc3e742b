// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

var netKey = regexp.MustCompile(`^net[0-9]{1,4}$`)

// own reports whether a config key has a field of its own beside kind, which
// is then the one place to write it.
func own(key string) bool {
	switch key {
	case "cores", "memory", "swap", "description", "tags", "onboot", "startup", "hostname", "name":
		return true
	}
	return netKey.MatchString(key)
}

// setting reads the config keys that have a field of their own.
func (r *guestReader) setting(m field) bool {
	var value string
	var ok bool
	switch {
	case r.otherKind(m):
		return true
	case m.name == "cores":
		var n int64
		n, ok = m.whole(1, 8192)
		value = strconv.FormatInt(n, 10)
	case m.name == "memory", m.name == "swap":
		value, ok = memory(m)
	case m.name == "description":
		value, ok = m.text()
		value = strings.TrimRight(value, " \t\r\n")
	case m.name == "tags":
		value, ok = tags(m)
	case m.name == "onboot":
		value, ok = m.flag()
	case m.name == "startup":
		value, ok = startup(m)
	case m.name == "hostname", m.name == "name":
		value, ok = m.textLine()
	case netKey.MatchString(m.name):
		value, ok = network(m)
	default:
		return false
	}
	if ok {
		r.put(m, value)
	}
	return true
}

// otherKind reports a field that only guests of the other kind have.
func (r *guestReader) otherKind(m field) bool {
	do := map[guest.Kind]map[string]string{
		guest.LXC:  {"name": "a container has hostname"},
		guest.QEMU: {"hostname": "a virtual machine has name", "swap": "remove it"},
	}[r.g.Kind][m.name]
	if do == "" {
		return false
	}
	m.fail("is not a field of kind "+string(r.g.Kind), "", do)
	return true
}

// put checks a config value by its normal form and takes it.
func (r *guestReader) put(m field, value string) {
	if wrong, want := r.check(m.name, value); wrong != "" {
		m.fail(wrong, want, "")
		return
	}
	if netKey.MatchString(m.name) {
		value = orderParts(value, netOrder)
	}
	if m.name == "startup" {
		value = orderParts(value, startupOrder)
	}
	if r.g.Config == nil {
		r.g.Config = guest.Config{}
	}
	r.g.Config[m.name] = value
	r.set[m.name] = m
}

// check says why a value may not be desired. It never shows a secret.
func (r *guestReader) check(key, value string) (wrong, want string) {
	form, ok := r.forms.Form(r.g.Kind, key)
	if !ok {
		return fmt.Sprintf("%s is not a config key of kind %s", key, r.g.Kind), ""
	}
	if value == "" {
		return "says nothing", "to have the key removed, name it in delete"
	}
	err := form.Value.Check(value)
	switch {
	case err == nil:
		return "", ""
	case form.Secret:
		return "the value is not one PVE takes (it is not shown, because it is a secret)", ""
	}
	wrong, want, found := strings.Cut(strings.TrimPrefix(err.Error(), "guest: "), ": want ")
	if found {
		want = "want " + want
	}
	return wrong, want
}

// secret reports whether a key's value is a secret.
func (r *guestReader) secret(key string) bool {
	form, _ := r.forms.Form(r.g.Kind, key)
	return form.Secret
}

// memory reads "2GiB" as PVE's MiB.
func memory(m field) (string, bool) {
	const want = `want whole MiB with a unit, as in "512MiB" or "2GiB"`
	if n, ok := m.val.(int64); ok {
		m.fail(fmt.Sprintf("%d has no unit", n), want, fmt.Sprintf("if MiB is meant write \"%dMiB\"", n))
		return "", false
	}
	s, ok := m.textLine()
	if !ok {
		return "", false
	}
	mib, err := guest.ParseMemory(s)
	if err != nil {
		m.fail(amountError(err), want, "")
		return "", false
	}
	return strconv.Itoa(mib), true
}

// amountError is what pkg/guest says is wrong with an amount, without its
// advice: that is said once, after it.
func amountError(err error) string {
	wrong := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "guest: "), "memory ")
	for _, advice := range []string{": want ", ": write "} {
		wrong, _, _ = strings.Cut(wrong, advice)
	}
	return wrong
}

var tagPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)

// tags joins a list of tags in the order PVE sorts them.
func tags(m field) (string, bool) {
	items, ok := m.words(true)
	if len(items) == 0 && ok {
		m.fail("is empty", "", `to have the tags removed write delete = ["tags"]`)
		return "", false
	}
	var list []string
	for _, item := range items {
		if item.name != "" && !tagPattern.MatchString(item.name) {
			item.fail(quote(item.name)+" is not a tag", "want letters, digits, _ - + and ., the first a letter, digit or _", "")
			ok = false
		}
		list = append(list, item.name)
	}
	slices.SortFunc(list, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return strings.Join(list, ";"), ok
}

// bareOrder is an order without its name: PVE takes "5" for "order=5".
var bareOrder = regexp.MustCompile(`(^|,)\s*([0-9]+)\s*`)

// startup reads a table of the boot order, or PVE's own text.
func startup(m field) (string, bool) {
	if _, isTable := m.val.(*table); !isTable {
		s, ok := propText(m, `{ order = 1, up = "30s" }`)
		return bareOrder.ReplaceAllString(s, "${1}order=$2"), ok
	}
	members, _ := m.members()
	if len(members) == 0 {
		m.fail("is empty", "want order, up or down", "")
		return "", false
	}
	ok := true
	var parts []string
	for _, f := range members {
		var n int64
		var good bool
		switch f.name {
		case "order":
			n, good = f.whole(0, 1_000_000)
		case "up", "down":
			var d time.Duration
			d, good = f.duration(0, maxStop)
			n = int64(d / time.Second)
		default:
			f.unknown(startupOrder)
		}
		parts = append(parts, fmt.Sprintf("%s=%d", f.name, n))
		ok = ok && good
	}
	return strings.Join(parts, ","), ok
}

// propText reads a property string as PVE writes it.
func propText(m field, example string) (string, bool) {
	if _, isText := m.val.(string); !isText {
		m.wrongKind("a string as PVE has it, or a table as in "+example, "")
		return "", false
	}
	return m.textLine()
}

// network reads a table of a network, or PVE's own text.
func network(m field) (string, bool) {
	if _, isTable := m.val.(*table); !isTable {
		return propText(m, `{ name = "eth0", bridge = "vmbr0" }`)
	}
	members, _ := m.members()
	if len(members) == 0 {
		m.fail("is empty", "want at least a bridge", "")
		return "", false
	}
	ok := true
	var parts []string
	for _, f := range members {
		value, good := propValue(f)
		parts = append(parts, f.name+"="+value)
		ok = ok && good
	}
	return strings.Join(parts, ","), ok
}

var propName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

// propValue reads one part of a property string. What would split it into two
// is refused.
func propValue(f field) (string, bool) {
	if !propName.MatchString(f.name) {
		f.fail("is not the name of a part", "want letters, digits, - and _", "")
		return "", false
	}
	s, ok := plain(f, true)
	if ok && strings.Contains(s, ",") {
		f.fail(quote(s)+" holds a comma, which would start another part", "", "give that part a key of its own")
		ok = false
	}
	return s, ok
}

// plain reads a string, whole number or boolean as PVE's text. With show unset
// no message shows the value.
func plain(f field, show bool) (string, bool) {
	switch v := f.val.(type) {
	case string:
		return f.textLine()
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return flagText(v), true
	case float64:
		do := "write it as a string"
		if show {
			do += fmt.Sprintf(", %q", strconv.FormatFloat(v, 'f', -1, 64))
		}
		f.wrongKind("PVE's own text", do)
	default:
		f.wrongKind("a string, a whole number, or true or false", "")
	}
	return "", false
}

// The parts that come first when PVE prints a property string.
var (
	netOrder     = []string{"name"}
	startupOrder = []string{"order", "up", "down"}
)

// orderParts brings the parts of a property string into one order: a part
// without a name or named first, then by name. Order has no meaning to PVE,
// and must not look like a change.
func orderParts(s string, first []string) string {
	rank := func(part string) int {
		name, _, named := strings.Cut(part, "=")
		i := slices.Index(first, name)
		switch {
		case !named:
			return -2
		case networkModel(name):
			return -1
		case i >= 0:
			return i
		}
		return len(first)
	}
	parts := slices.DeleteFunc(strings.Split(s, ","), func(p string) bool { return strings.TrimSpace(p) == "" })
	slices.SortStableFunc(parts, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return strings.Join(parts, ",")
}

// networkModel reports whether a part of a network leads it: "model", or a
// model that stands as the name of its hardware address.
func networkModel(name string) bool {
	switch name {
	case "model", "virtio", "vmxnet3", "rtl8139", "pcnet", "ne2k_pci", "ne2k_isa":
		return true
	}
	return strings.HasPrefix(name, "e1000") || strings.HasPrefix(name, "i8255")
}
