// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// PVE is written in Perl: what is a number in one version or for one kind of
// guest is a string, an empty string or null in another. The types below take
// them all. None of them takes an object or a list.

// number is a JSON number, numeric string, boolean, "" or null.
type number float64

func (n *number) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	if err != nil {
		return err
	}
	if s == "" {
		*n = 0
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("pve: %q is not a number", s)
	}
	*n = number(f)
	return nil
}

// bool is PVE's truth: everything but nothing, "" and 0.
func (n number) bool() bool { return n != 0 }

// text is a JSON scalar as text; null is "".
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	s, err := scalar(b)
	*t = text(s)
	return err
}

// paramErrors is the "errors" of an answer. It takes anything: an error must
// not be lost because its details look odd.
type paramErrors map[string]string

func (p *paramErrors) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if json.Unmarshal(b, &raw) != nil {
		return nil
	}
	*p = make(map[string]string, len(raw))
	for k, v := range raw {
		s, err := scalar(v)
		if err != nil {
			s = string(v)
		}
		(*p)[k] = s
	}
	return nil
}

// scalar is a JSON scalar as PVE writes it in a config: a number by its
// digits, a boolean as 0 or 1, null as nothing.
func scalar(b []byte) (string, error) {
	b = bytes.TrimSpace(b)
	switch {
	case len(b) == 0 || string(b) == "null":
		return "", nil
	case string(b) == "true":
		return "1", nil
	case string(b) == "false":
		return "0", nil
	case b[0] == '"':
		var s string
		err := json.Unmarshal(b, &s)
		return s, err
	case b[0] == '{' || b[0] == '[':
		return "", fmt.Errorf("pve: want a plain value, got %.20s", b)
	}
	return string(b), nil
}

// list decodes a JSON array; null and "" are an empty one, and what Perl
// collapsed into a single object is a list of it.
func list[T any](b json.RawMessage) ([]T, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || string(b) == "null" || string(b) == `""` {
		return nil, nil
	}
	if b[0] == '{' {
		var one T
		if err := json.Unmarshal(b, &one); err != nil {
			return nil, err
		}
		return []T{one}, nil
	}
	var out []T
	err := json.Unmarshal(b, &out)
	return out, err
}
