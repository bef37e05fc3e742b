// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import "strings"

// mayChangeLXC refuses a caller who may not set the params or delete the keys.
// PVE takes them in random order, this in order of the names.
func (g *Guest) mayChangeLXC(r Request, params map[string]string, deletes []string) *Error {
	if r.Caller.root() {
		return nil
	}
	for _, k := range sortedKeys(params) {
		if err := g.mayChangeKey(r, k, params[k], false); err != nil {
			return err
		}
	}
	for _, k := range deletes {
		if err := g.mayChangeKey(r, k, "", true); err != nil {
			return err
		}
	}
	return nil
}

func (g *Guest) mayChangeKey(r Request, name, value string, del bool) *Error {
	k := lxcKeys[name]
	switch {
	case name == "rootfs" || inFamily(name, "mp"):
		return g.mayMount(r, name, value, del)
	case inFamily(name, "net"):
		return g.mayNet(r, name, value)
	case inFamily(name, "dev"):
		return denied("configuring device passthrough is only allowed for root@pam")
	case name == "features":
		return g.mayFeatures(r, value, del)
	case name == "hookscript":
		return denied("changing the hookscript is only allowed for root@pam")
	case name == "tags":
		return g.mayTag(r.Caller, r.Env, g.Current.Values["tags"], value)
	case k != nil && k.priv != "":
		return r.Caller.need(g.path(), k.priv)
	}
	return r.Caller.need(g.path(), privOptions)
}

func (g *Guest) mayMount(r Request, name, value string, del bool) *Error {
	if err := r.Caller.need(g.path(), privDisk); err != nil || del {
		return err
	}
	mp, err := parseMount(name, value)
	if err != nil {
		return codeError(err)
	}
	if t := mountType(mp["volume"]); t != "volume" {
		return denied("mount point type " + t + " is only allowed for root@pam")
	}
	if m := newDiskRE.FindStringSubmatch(mp["volume"]); m != nil {
		return r.Caller.need("/storage/"+m[1], "Datastore.AllocateSpace")
	}
	return g.mayUseVolume(r.Version, r.Caller, r.Env, mp["volume"], "rootdir")
}

func (g *Guest) mayNet(r Request, name, value string) *Error {
	if err := r.Caller.need(g.path(), privNetwork); err != nil {
		return err
	}
	for _, v := range []string{g.Current.Values[name], value} {
		if v == "" {
			continue
		}
		net, err := lxcNetProps.parse("", v)
		if err != nil {
			return codeError(err)
		}
		if err := mayBridge(r.Caller, net); err != nil {
			return err
		}
	}
	return nil
}

// mayBridge asks for SDN.Use on what a network interface is plugged into.
func mayBridge(c Caller, net values) *Error {
	bridge := net["bridge"]
	if bridge == "" {
		return died("no sdn vnet ID specified")
	}
	zone := "/sdn/zones/localnetwork/" + bridge
	tags := trunkTags(net["trunks"])
	if t := net["tag"]; t != "" && t != "0" {
		tags = append([]string{t}, tags...)
	}
	for _, t := range tags {
		if err := c.need(zone+"/"+t, "SDN.Use"); err != nil {
			return err
		}
	}
	if len(tags) > 0 {
		return nil
	}
	return c.need(zone, "SDN.Use")
}

func trunkTags(trunks string) []string {
	if trunks == "" {
		return nil
	}
	set := make(map[string]bool)
	for t := range strings.SplitSeq(trunks, ";") {
		set[t] = true
	}
	return sortedKeys(set)
}

// mayFeatures: nesting of an unprivileged container needs VM.Allocate, all
// else root. Values that stay the same do not count.
func (g *Guest) mayFeatures(r Request, value string, del bool) *Error {
	if g.Current.Values["unprivileged"] != "1" {
		return denied("changing feature flags for privileged container is only allowed for root@pam")
	}
	before, err := parseFeatures(g.Current.Values["features"])
	if err != nil {
		return codeError(err)
	}
	after, err := parseFeatures(value)
	if err != nil {
		return codeError(err)
	}
	nesting, other := changedFeatures(before, after, del)
	if other {
		return denied("changing feature flags (except nesting) is only allowed for root@pam")
	}
	if nesting {
		return r.Caller.need(g.path(), privAllocate)
	}
	return nil
}

func parseFeatures(s string) (values, error) {
	if s == "" || s == "0" {
		return values{}, nil
	}
	return featureProps.parse("", s)
}

func changedFeatures(before, after values, del bool) (nesting, other bool) {
	if len(before) == 0 || del {
		set := after
		if del {
			set = before
		}
		_, nests := set["nesting"]
		return nests && len(set) == 1, len(set) > 0 && !(nests && len(set) == 1)
	}
	for _, k := range featureProps.props {
		if before[k.name] != after[k.name] {
			nesting = nesting || k.name == "nesting"
			other = other || k.name != "nesting"
		}
	}
	return nesting, other
}
