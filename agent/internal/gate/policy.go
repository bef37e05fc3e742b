// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

const (
	maxSignatures = 16
	maxSkew       = 5 * time.Minute
)

// Policy says what an approval needs. The zero Policy allows nothing.
type Policy struct {
	// Actions are rules for single action kinds; they go before Classes.
	Actions map[string]Rule
	Classes map[guest.Class]Rule
	// MaxWindow is the longest time between a request's not-before and
	// not-after, or an approval's two phases; zero means 24 hours.
	MaxWindow time.Duration
	// MaxPermit is the same for a standing permit; zero means 90 days.
	MaxPermit time.Duration
	// Skew is how far now may lie before not-before, for a clock that was
	// stepped back: at most 5 minutes. It never extends not-after.
	Skew time.Duration
}

// Rule is what one kind or class of action needs. The zero Rule is invalid.
type Rule struct {
	// Threshold is how many people must sign, at least 1.
	Threshold int
	// FourEyes: who asked does not count.
	FourEyes bool
	// PIN: only security keys that checked the PIN or fingerprint count.
	PIN bool
	// SecurityKey: only security keys count.
	SecurityKey bool
}

// DefaultPolicy wants one signature for what is irreversible, valid for a day.
// A request for anything else needs a rule of the operator's.
func DefaultPolicy() Policy {
	return Policy{Classes: map[guest.Class]Rule{guest.Irreversible: {Threshold: 1}}, Skew: time.Minute}
}

// Validate names the first setting that makes no sense.
func (p Policy) Validate() error {
	if p.Skew < 0 || p.Skew > maxSkew {
		return refuse(ErrPolicy, "skew %s is not between 0 and %s", p.Skew, maxSkew)
	}
	if p.MaxWindow < 0 || p.MaxPermit < 0 {
		return refuse(ErrPolicy, "a longest window is negative")
	}
	for class, r := range p.Classes {
		if err := r.validate("class " + string(class)); err != nil {
			return err
		}
	}
	for action, r := range p.Actions {
		if err := r.validate("action " + action); err != nil {
			return err
		}
	}
	return nil
}

func (r Rule) validate(of string) error {
	if r.Threshold < 1 || r.Threshold > maxSignatures {
		return refuse(ErrPolicy, "the threshold of %s is %d, want 1 to %d", of, r.Threshold, maxSignatures)
	}
	return nil
}

// rule is the rule for an action. Nothing of class never or unclassed is ever
// allowed, whatever the map holds.
func (p Policy) rule(action string, class guest.Class) (Rule, error) {
	if class == guest.Never || class == guest.Unclassed {
		return Rule{}, refuse(ErrNoRule, "class %s", class)
	}
	if r, ok := p.Actions[action]; ok {
		return r, nil
	}
	if r, ok := p.Classes[class]; ok {
		return r, nil
	}
	return Rule{}, refuse(ErrNoRule, "action %s of class %s", action, class)
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

func (p Policy) maxWindow() time.Duration { return orDefault(p.MaxWindow, 24*time.Hour) }
func (p Policy) maxPermit() time.Duration { return orDefault(p.MaxPermit, 90*24*time.Hour) }

// checkWindow holds now against a text's window.
func (p Policy) checkWindow(from, to time.Time, longest time.Duration, now time.Time) error {
	switch {
	case !from.Before(to):
		return refuse(ErrEmptyWindow, "%s to %s", from.Format(timeForm), to.Format(timeForm))
	case to.Sub(from) > longest:
		return refuse(ErrLongWindow, "%s, at most %s", to.Sub(from), longest)
	case now.Add(p.Skew).Before(from):
		return refuse(ErrEarly, "not before %s", from.Format(timeForm))
	case now.After(to):
		return refuse(ErrExpired, "not after %s", to.Format(timeForm))
	}
	return nil
}
