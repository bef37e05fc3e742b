// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
)

// Refusal is the error of every function of this package: a reason and what
// exactly was met. It holds no secret: signed texts and public keys only.
type Refusal struct {
	Reason Reason
	Detail string // may be empty
}

// Error is the reason's sentence and the detail.
func (r *Refusal) Error() string {
	if r.Detail == "" {
		return r.Reason.Error()
	}
	return r.Reason.Error() + ": " + r.Detail
}

// Unwrap makes errors.Is(err, ErrTouch) work.
func (r *Refusal) Unwrap() error { return r.Reason }

// ReasonOf is the reason in err's chain, "" if there is none.
func ReasonOf(err error) Reason {
	var r Reason
	if errors.As(err, &r) {
		return r
	}
	return ""
}

func refuse(r Reason, format string, args ...any) error {
	return &Refusal{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// prefix puts where a refusal happened before its detail.
func prefix(err error, format string, args ...any) error {
	var r *Refusal
	if !errors.As(err, &r) {
		return err
	}
	where := fmt.Sprintf(format, args...)
	if r.Detail != "" {
		where += ": " + r.Detail
	}
	return &Refusal{Reason: r.Reason, Detail: where}
}
