// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// maxText bounds an error's text on the wire, in bytes: it travels in a
// header. Both ends see to it: a plugin need not be made with this package, and
// what it says is logged, shown and kept.
const maxText = 8 << 10

// wireKinds is how each error kind is named on the wire and which gRPC code
// stands for it. The first kind that an error has decides its code. Unavailable
// means only ever that the process cannot be reached, so that a dead plugin
// and one that cannot answer now are not taken for each other.
var wireKinds = []struct {
	name string
	err  error
	code codes.Code
}{
	{"invalid", ErrInvalid, codes.InvalidArgument},
	{"unsupported", ErrUnsupported, codes.Unimplemented},
	{"denied", ErrDenied, codes.PermissionDenied},
	{"not-sent", ErrNotSent, codes.FailedPrecondition},
	{"unavailable", ErrUnavailable, codes.Aborted},
	{"shutdown", ErrShutdown, codes.Unavailable},
	{"canceled", context.Canceled, codes.Canceled},
	{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded},
}

// wireError is an error that came over the wire: its text as it was, and its
// kinds.
type wireError struct {
	text  string
	kinds []error
}

func (e *wireError) Error() string   { return e.text }
func (e *wireError) Unwrap() []error { return e.kinds }

// kindsOf returns the wire names of err's kinds and the code of the first.
func kindsOf(err error) (names []string, code codes.Code) {
	code = codes.Unknown
	for _, k := range wireKinds {
		if !errors.Is(err, k.err) {
			continue
		}
		if len(names) == 0 {
			code = k.code
		}
		names = append(names, k.name)
	}
	return names, code
}

// kindsNamed is the reverse of kindsOf; names it does not know are dropped.
func kindsNamed(names []string) []error {
	var kinds []error
	for _, k := range wireKinds {
		for _, n := range names {
			if n == k.name {
				kinds = append(kinds, k.err)
				break
			}
		}
	}
	return kinds
}

// toStatus makes err fit to cross the wire.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	names, code := kindsOf(err)
	st := status.New(code, wireText(err.Error()))
	if len(names) == 0 {
		return st.Err()
	}
	if with, derr := st.WithDetails(&pluginpb.Detail{Kinds: names}); derr == nil {
		st = with
	}
	return st.Err()
}

// fromStatus is the reverse of toStatus. ctx is the caller's: when it ended,
// that is the reason, whatever gRPC made of it.
func fromStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := wireText(st.Message())
	for _, d := range st.Details() {
		if d, ok := d.(*pluginpb.Detail); ok {
			if kinds := kindsNamed(d.GetKinds()); len(kinds) > 0 {
				return &wireError{text: text, kinds: kinds}
			}
		}
	}
	kind := kindOfCode(ctx, st.Code())
	if kind == nil {
		return &wireError{text: text}
	}
	return &wireError{text: kind.Error() + ": " + text, kinds: []error{kind}}
}

// kindOfCode reads a status without our details: gRPC's own, or that of a
// plugin in another language.
func kindOfCode(ctx context.Context, code codes.Code) error {
	switch code {
	case codes.Canceled, codes.Unavailable:
		if err := ctx.Err(); err != nil {
			return err
		}
		return ErrShutdown
	}
	for _, k := range wireKinds {
		if k.code == code {
			return k.err
		}
	}
	return nil
}

// toFailure is toStatus for the inside of a stream; nil for a nil err.
func toFailure(err error) *pluginpb.Failure {
	if err == nil {
		return nil
	}
	names, _ := kindsOf(err)
	return &pluginpb.Failure{Kinds: names, Message: wireText(err.Error())}
}

func fromFailure(f *pluginpb.Failure) error {
	if f == nil {
		return nil
	}
	return &wireError{text: wireText(f.GetMessage()), kinds: kindsNamed(f.GetKinds())}
}

// wireText makes s valid UTF-8, which protobuf insists on, and bounds it.
func wireText(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= maxText {
		return s
	}
	const mark = " [cut]"
	s = s[:maxText-len(mark)]
	for !utf8.ValidString(s) { // the cut may be inside a rune: at most 3 rounds
		s = s[:len(s)-1]
	}
	return s + mark
}
