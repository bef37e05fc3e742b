// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package schema

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	params := []Param{
		{Name: "n", Type: Integer, Min: F(16), Max: F(99)},
		{Name: "b", Type: Boolean},
		{Name: "f", Type: Number},
		{Name: "e", Enum: []string{"a", "b"}},
		{Name: "p", Pattern: regexp.MustCompile(`^x+$`)},
		{Name: "s", MinLen: 2, MaxLen: 3},
		{Name: "d", Format: func(string) string { return "no good" }},
		{Name: "r", Requires: "n"},
	}
	tests := []struct{ name, key, val, kind, want string }{
		{"integer", "n", "abc", "", "type check ('integer') failed - got 'abc'"},
		{"fraction", "n", "12.5", "", "type check ('integer') failed - got '12.5'"},
		{"signed", "n", "+20", "", ""},
		{"minimum", "n", "8", "", "value must have a minimum value of 16"},
		{"maximum", "n", "100", "", "value must have a maximum value of 99"},
		{"boolean", "b", "true", "", "type check ('boolean') failed - got 'true'"},
		{"number", "f", "1.5", "", ""},
		{"no number", "f", "x", "", "type check ('number') failed - got 'x'"},
		{"enumeration", "e", "x", "", "value 'x' does not have a value in the enumeration 'a, b'"},
		{"pattern", "p", "y", "", "value does not match the regex pattern"},
		{"long", "s", "äöüß", "", "value may only be 3 characters long"},
		{"short", "s", "ä", "", "value must be at least 2 characters long"},
		{"format", "d", "x", "", "invalid format - no good\n"},
		{"hash", "s", "", "HASH", "type check ('string') failed - got HASH"},
		{"requires", "r", "x", "", "missing property - 'r' requires this property"},
		{"unknown", "zz", "1", "", "property is not defined in schema and the schema does not allow additional properties"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := Check(params, Values{tt.key: {S: tt.val, Kind: tt.kind}}, nil)[tt.key]
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCheckMissing(t *testing.T) {
	t.Parallel()
	got := Check([]Param{{Name: "vmid", Required: true}}, Values{"x": {S: "1"}}, func(k string) bool { return k == "x" })
	if diff := cmp.Diff(map[string]string{"vmid": "property is missing and it is not optional"}, got); diff != "" {
		t.Error(diff)
	}
}
