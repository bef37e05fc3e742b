// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// ForeignComplaints are the lines PVE prints, in the file's order, about
// settings that do not belong into a config of the kind: it reads a config of
// the other kind as if it were one of this.
func ForeignComplaints(kind guest.Kind, text string) []string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "[") {
			break // snapshots are read later, if at all
		}
		name, value, ok := strings.Cut(line, ": ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if why := complaint(kind, name, value); why != "" {
			out = append(out, "unable to parse value of '"+name+"' - "+why)
		}
	}
	return out
}

func complaint(kind guest.Kind, name, value string) string {
	k := lookupKey(kind, name)
	if k == nil {
		return "unknown setting '" + name + "'"
	}
	if k.typ != tString {
		if _, ok := k.readValue(value); !ok {
			return "type check ('" + k.typ.String() + "') failed - got '" + value + "'"
		}
		return ""
	}
	if err := k.formatErr("", value); err != nil {
		return err.Error()
	}
	return ""
}
