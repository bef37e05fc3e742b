// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook

import (
	"strconv"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

// Parse reads the JSON of one event, as strictly as it can be read: an object
// of the known fields, each at most once, spelled exactly, strings without
// escapes (no valid value needs one), numbers whole, nothing before or after,
// at most [MaxSize] bytes, and valid. The error is an [ErrInvalid].
func Parse(data []byte) (Event, error) {
	if len(data) > MaxSize {
		return Event{}, invalid("size", "want at most "+strconv.Itoa(MaxSize)+" bytes")
	}
	var e Event
	s := scanner{rest: data}
	if err := s.object(&e); err != nil {
		return Event{}, err
	}
	if err := e.Validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// scanner walks over the little JSON an event is made of.
type scanner struct{ rest []byte }

func (s *scanner) object(e *Event) error {
	if !s.take('{') {
		return s.want("an object")
	}
	seen := map[string]bool{}
	for first := true; first || s.take(','); first = false {
		key, ok := s.text()
		if !ok || !s.take(':') {
			return s.want("a field")
		}
		if seen[key] {
			return invalid(key, "given twice")
		}
		seen[key] = true
		if err := s.field(e, key); err != nil {
			return err
		}
	}
	if !s.take('}') || s.peek() != 0 || len(s.rest) > 0 {
		return s.want("the end of the object and nothing after it")
	}
	return nil
}

func (s *scanner) field(e *Event, key string) error {
	text, number := "", int64(0)
	var ok bool
	switch key {
	case "vmid", "time":
		if number, ok = s.number(); !ok {
			return invalid(key, "want a whole number")
		}
	case "id", "phase", "boot", "migrated_from":
		if text, ok = s.text(); !ok {
			return invalid(key, "want a string without escapes")
		}
	default:
		return invalid(strconv.Quote(key), "no such field")
	}
	e.set(key, text, number)
	return nil
}

func (e *Event) set(key, text string, number int64) {
	switch key {
	case "id":
		e.ID = text
	case "vmid":
		e.VMID = id.VMID(number)
	case "phase":
		e.Phase = id.Phase(text)
	case "time":
		e.Time = number
	case "boot":
		e.Boot = text
	case "migrated_from":
		e.MigratedFrom = text
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for len(s.rest) > 0 {
		switch c := s.rest[0]; c {
		case ' ', '\t', '\r', '\n':
			s.rest = s.rest[1:]
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) text() (string, bool) {
	if !s.take('"') {
		return "", false
	}
	for i, c := range s.rest {
		switch {
		case c == '"':
			text := string(s.rest[:i])
			s.rest = s.rest[i+1:]
			return text, true
		case c == '\\' || c < ' ' || c > '~':
			return "", false
		}
	}
	return "", false
}

func (s *scanner) number() (int64, bool) {
	s.peek()
	n := 0
	for n < len(s.rest) && (s.rest[n] == '-' || s.rest[n] >= '0' && s.rest[n] <= '9') {
		n++
	}
	text := string(s.rest[:n])
	s.rest = s.rest[n:]
	v, err := strconv.ParseInt(text, 10, 64)
	return v, err == nil && strconv.FormatInt(v, 10) == text
}

func (s *scanner) want(what string) error {
	return &failure{"hook: want " + what, ErrInvalid}
}
