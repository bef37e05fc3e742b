// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
)

// words are the fields in which a plugin speaks to people: they are logged,
// journalled, shown, and reported to others. Every other field is data, which
// is compared or handed back and would be wrong with a mask in it.
var words = map[protoreflect.FullName]bool{
	"felhom.plugin.v1.DescribeResponse.name":    true,
	"felhom.plugin.v1.DescribeResponse.version": true,
	"felhom.plugin.v1.DescribeResponse.actions": true,
	"felhom.plugin.v1.Action.reason":            true, // of an undo
	"felhom.plugin.v1.Progress.text":            true,
	"felhom.plugin.v1.Outcome.message":          true,
	"felhom.plugin.v1.Outcome.refused_keys":     true,
	"felhom.plugin.v1.Outcome.reason":           true,
	"felhom.plugin.v1.ProbeResponse.message":    true,
	"felhom.plugin.v1.Hint.reason":              true,
	"felhom.plugin.v1.NodeState.version":        true,
	"felhom.plugin.v1.NodeState.busy":           true,
	"felhom.plugin.v1.Observation.config_error": true,
	"felhom.plugin.v1.Observation.tasks_gap":    true,
	"felhom.plugin.v1.Inventory.jobs":           true,
	"felhom.plugin.v1.Inventory.missing":        true,
	"felhom.plugin.v1.Task.status":              true,
	"felhom.plugin.v1.Snapshot.error":           true,
}

// discreet is a connection to a plugin on which its secrets are masked in its
// words and in its errors, whatever it is asked. So are, in the answer to an
// action, the values that the action calls secret.
type discreet struct {
	grpc.ClientConnInterface
	secrets []string
	redact  *strings.Replacer
}

func newDiscreet(conn grpc.ClientConnInterface, secrets map[string]plugin.Secret) discreet {
	all := revealed(secrets)
	return discreet{ClientConnInterface: conn, secrets: all, redact: redactor(all)}
}

// about is redact for the answer to what concerns an action.
func (d discreet) about(a *pluginpb.Action) *strings.Replacer {
	if len(a.GetSecret()) == 0 {
		return d.redact
	}
	all := slices.Clone(d.secrets)
	for _, key := range a.GetSecret() {
		all = append(all, a.GetSet()[key])
	}
	return redactor(all)
}

// Invoke implements grpc.ClientConnInterface.
func (d discreet) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	redact := d.redact
	if q, ok := args.(*pluginpb.ProbeRequest); ok {
		redact = d.about(q.GetAction())
	}
	err := d.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	return maskAnswer(redact, reply, err)
}

// NewStream implements grpc.ClientConnInterface.
func (d discreet) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := d.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, maskError(d.redact, err)
	}
	s := &discreetStream{ClientStream: stream, d: d}
	s.redact.Store(d.redact)
	return s, nil
}

type discreetStream struct {
	grpc.ClientStream
	d      discreet
	redact atomic.Pointer[strings.Replacer] // one may send while another receives
}

// SendMsg implements grpc.ClientStream.
func (s *discreetStream) SendMsg(m any) error {
	if in, ok := m.(*pluginpb.ApplyIn); ok && in.GetRequest() != nil {
		s.redact.Store(s.d.about(in.GetRequest().GetAction()))
	}
	return s.ClientStream.SendMsg(m)
}

// RecvMsg implements grpc.ClientStream.
func (s *discreetStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	return maskAnswer(s.redact.Load(), m, err)
}

func maskAnswer(redact *strings.Replacer, answer any, err error) error {
	if err != nil {
		return maskError(redact, err)
	}
	if m, ok := answer.(proto.Message); ok {
		maskWords(redact, m.ProtoReflect())
	}
	return nil
}

// maskError leaves code and details as they are.
func maskError(redact *strings.Replacer, err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err // of the stream itself, such as its end
	}
	p := st.Proto()
	p.Message = redact.Replace(p.GetMessage())
	return status.FromProto(p).Err()
}

// maskWords masks the words of m and of the messages in it.
func maskWords(redact *strings.Replacer, m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() && words[f.FullName()]:
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				v.Map().Set(k, protoreflect.ValueOfString(redact.Replace(e.String())))
				return true
			})
		case f.IsMap(): // of data
		case f.IsList():
			maskList(redact, f, v.List())
		case f.Message() != nil:
			maskWords(redact, v.Message())
		case words[f.FullName()]:
			m.Set(f, protoreflect.ValueOfString(redact.Replace(v.String())))
		}
		return true
	})
}

func maskList(redact *strings.Replacer, f protoreflect.FieldDescriptor, list protoreflect.List) {
	for i := range list.Len() {
		switch {
		case f.Message() != nil:
			maskWords(redact, list.Get(i).Message())
		case words[f.FullName()]:
			list.Set(i, protoreflect.ValueOfString(redact.Replace(list.Get(i).String())))
		}
	}
}
