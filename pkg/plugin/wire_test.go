// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/felhom/felhom-agent/pkg/guest"
)

func TestErrorsCrossTheWire(t *testing.T) {
	const pve = "403 Permission check failed (/vms/101, VM.PowerMgmt)"
	tests := map[string]struct {
		err  error
		is   []error
		code codes.Code
	}{
		"invalid":      {fmt.Errorf("%w: vmid", ErrInvalid), []error{ErrInvalid}, codes.InvalidArgument},
		"unsupported":  {ErrUnsupported, []error{ErrUnsupported}, codes.Unimplemented},
		"denied":       {fmt.Errorf("start lxc/101: %w: %s", ErrDenied, pve), []error{ErrDenied}, codes.PermissionDenied},
		"not sent":     {ErrNotSent, []error{ErrNotSent}, codes.FailedPrecondition},
		"unavailable":  {ErrUnavailable, []error{ErrUnavailable}, codes.Aborted},
		"shutdown":     {ErrShutdown, []error{ErrShutdown}, codes.Unavailable},
		"two kinds":    {fmt.Errorf("%w: %w", ErrNotSent, ErrShutdown), []error{ErrNotSent, ErrShutdown}, codes.FailedPrecondition},
		"joined":       {errors.Join(errors.New("x"), ErrDenied), []error{ErrDenied}, codes.PermissionDenied},
		"plugin's own": {fmt.Errorf("%w: read", context.DeadlineExceeded), []error{context.DeadlineExceeded}, codes.DeadlineExceeded},
		"no kind":      {errors.New("something else"), nil, codes.Unknown},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st := toStatus(tt.err)
			if got := status.Code(st); got != tt.code {
				t.Errorf("code %v, want %v", got, tt.code)
			}
			inStatus := fromStatus(t.Context(), st)
			inStream := fromFailure(toFailure(tt.err))
			for _, got := range []error{inStatus, inStream} {
				if got.Error() != tt.err.Error() {
					t.Errorf("text %q, want %q", got, tt.err)
				}
				for _, k := range wireKinds {
					if errors.Is(got, k.err) != errors.Is(tt.err, k.err) {
						t.Errorf("errors.Is(%v) is %v on this side only", k.err, errors.Is(got, k.err))
					}
				}
			}
			for _, is := range tt.is {
				if !errors.Is(inStatus, is) {
					t.Errorf("is not %v", is)
				}
			}
		})
	}
}

func TestNoErrorCrossesAsNone(t *testing.T) {
	if toStatus(nil) != nil || fromStatus(t.Context(), nil) != nil || fromFailure(toFailure(nil)) != nil {
		t.Error("nil became an error")
	}
}

// A plugin in another language knows codes only.
func TestStatusWithoutDetails(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx  context.Context
		code codes.Code
		want error
	}{
		"denied":               {t.Context(), codes.PermissionDenied, ErrDenied},
		"not there":            {t.Context(), codes.Unimplemented, ErrUnsupported},
		"not now":              {t.Context(), codes.Aborted, ErrUnavailable},
		"process gone":         {t.Context(), codes.Unavailable, ErrShutdown},
		"connection closed":    {t.Context(), codes.Canceled, ErrShutdown},
		"we cancelled":         {ended, codes.Canceled, context.Canceled},
		"gone as we cancelled": {ended, codes.Unavailable, context.Canceled},
		"deadline":             {t.Context(), codes.DeadlineExceeded, context.DeadlineExceeded},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := fromStatus(tt.ctx, status.Error(tt.code, "its words"))
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "its words") {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if err := fromStatus(t.Context(), status.Error(codes.ResourceExhausted, "too big")); err.Error() != "too big" {
		t.Errorf("a code that means nothing here: %v", err)
	}
}

func TestWireText(t *testing.T) {
	long := strings.Repeat("ő", maxText) // two bytes each
	got := wireText(long)
	if len(got) > maxText || !utf8.ValidString(got) || !strings.HasSuffix(got, "[cut]") {
		t.Errorf("%d bytes, valid %v, ends in %q", len(got), utf8.ValidString(got), got[len(got)-8:])
	}
	if got := wireText("a\xffb"); got != "a\uFFFDb" {
		t.Errorf("invalid UTF-8 became %q", got)
	}
	if got := fromStatus(t.Context(), toStatus(fmt.Errorf("%w: a\xffb", ErrDenied))); !errors.Is(got, ErrDenied) {
		t.Errorf("invalid UTF-8 lost the kind: %v", got)
	}
}

// fill sets every field to something, so that a field which is added to a
// type and forgotten in an adapter shows.
func fill(v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Unix(1_700_000_000, 5).UTC()))
		return
	case guest.ID:
		v.Set(reflect.ValueOf(guest.ID{Kind: guest.QEMU, VMID: 105}))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), depth)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), depth)
		fill(v.Index(1), depth)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, val := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, depth)
		fill(val, depth)
		v.SetMapIndex(key, val)
	case reflect.Pointer:
		if depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), depth-1)
		}
	default:
		fillScalar(v)
	}
}

func fillScalar(v reflect.Value) {
	switch v.Interface().(type) {
	case Status:
		v.SetString(string(Failed))
		return
	case Finding:
		v.SetString(string(Settled))
		return
	case Presence:
		v.SetString(string(Elsewhere))
		return
	case guest.RunState:
		v.SetString(string(guest.Running))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("text of " + v.Type().Name())
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(65)
	default:
		v.SetInt(777)
	}
}

func filled[T any](depth int) T {
	var v T
	fill(reflect.ValueOf(&v).Elem(), depth)
	return v
}

func roundTrip[T, P any](t *testing.T, to func(T) P, from func(P) (T, error)) {
	t.Helper()
	for _, want := range []T{filled[T](2), filled[T](0)} {
		got, err := from(to(want))
		if err != nil {
			t.Errorf("%T: %v", want, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%T changed on the wire (-want +got):\n%s", want, diff)
		}
	}
}

func noError[P, T any](f func(P) T) func(P) (T, error) {
	return func(p P) (T, error) { return f(p), nil }
}

func TestEveryFieldCrossesTheWire(t *testing.T) {
	roundTrip(t, infoToPB, noError(infoFromPB))
	roundTrip(t, actionToPB, actionFromPB)
	roundTrip(t, outcomeToPB, noError(outcomeFromPB))
	roundTrip(t, hintToPB, noError(hintFromPB))
	roundTrip(t, stateToPB, stateFromPB)
	roundTrip(t, observationToPB, observationFromPB)
	roundTrip(t, snapshotToPB, noError(snapshotFromPB))
}

// What a plugin says is data: the host makes the safe thing of it.
func TestWhatAPluginMayNotSay(t *testing.T) {
	if out := outcomeFromPB(outcomeToPB(Outcome{Status: "excellent", Message: "!"})); out.Status != Unknown {
		t.Errorf("an unknown status reads as %q", out.Status)
	}
	if out := outcomeFromPB(outcomeToPB(Outcome{Status: Done, Undo: &Action{Kind: Start}})); out.Status != Done || out.Undo != nil {
		t.Errorf("an undo of no guest: %+v", out)
	}
	if out := outcomeFromPB(nil); out.Status != Unknown {
		t.Errorf("no outcome reads as %q", out.Status)
	}
	if out := outcomeFromPB(outcomeToPB(Outcome{Status: Retry, RetryAfter: -time.Hour})); out.RetryAfter != 0 {
		t.Errorf("a negative wait reads as %v", out.RetryAfter)
	}
	if f := findingFromPB("perhaps"); f != Unclear {
		t.Errorf("an unknown finding reads as %q", f)
	}
	if p := presenceFromPB("nearby"); p != Unsure {
		t.Errorf("an unknown presence reads as %q", p)
	}
	if r := runStateFromPB("sleeping"); r != "" {
		t.Errorf("an unknown run state reads as %q", r)
	}
	if _, err := stateFromPB(stateToPB(GuestState{ID: guest.ID{Kind: "jail", VMID: 101}})); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown kind of guest: %v", err)
	}
	if _, err := stateFromPB(stateToPB(GuestState{ID: guest.ID{Kind: guest.LXC, VMID: 7}})); !errors.Is(err, ErrInvalid) {
		t.Errorf("a VMID out of range: %v", err)
	}
	if h := hintFromPB(hintToPB(Hint{Guests: []guest.VMID{3, 101}})); len(h.Guests) != 1 {
		t.Errorf("a hint with a bad VMID: %v", h.Guests)
	}
}

func TestUnknownConfigIsNotEmptyConfig(t *testing.T) {
	id := guest.ID{Kind: guest.LXC, VMID: 101}
	for _, want := range []guest.Config{nil, {}, {"cores": "2"}} {
		o, err := observationFromPB(observationToPB(Observation{Presence: Here, State: GuestState{ID: id}, Config: want}))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, o.Config); diff != "" {
			t.Errorf("config changed (-want +got):\n%s", diff)
		}
	}
}

func TestConfigDecode(t *testing.T) {
	var v struct {
		Path string `json:"path"`
	}
	if err := (Config{}).Decode(&v); err != nil {
		t.Errorf("no configuration: %v", err)
	}
	for name, js := range map[string]string{
		"unknown key": `{"paht": "/x"}`, "wrong type": `{"path": 5}`, "not an object": `7`, "two": `{} {}`, "torn": `{"path":`,
	} {
		err := Config{JSON: []byte(js)}.Decode(&v)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Config{JSON: []byte(`{"paht": 1}`)}).Decode(&v); !strings.Contains(err.Error(), "paht") {
		t.Errorf("the key is not named: %v", err)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	c := Config{Secrets: map[string]Secret{"token": "hunter2"}}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%#v", c), fmt.Sprintf("%+v", c), fmt.Sprintf("%q", c.Secrets["token"])} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("printed: %s", s)
		}
	}
	if c.Secrets["token"].Reveal() != "hunter2" {
		t.Error("the value is lost")
	}
}
