// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxParts bounds the parts of one message from a plugin: fields, entries and
// numbers of lists, on every level. The smallest takes two bytes of the message
// and a hundred times as much of memory. A node with 10,000 guests has half as
// many.
const maxParts = 250_000

// frugal is the codec of the host's end: it reads no message that would become
// too large in memory.
type frugal struct{}

// Name implements encoding.Codec: it is gRPC's own on the wire.
func (frugal) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (frugal) Marshal(v any) ([]byte, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return proto.Marshal(m)
}

// Unmarshal implements encoding.Codec.
func (frugal) Unmarshal(data []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", v)
	}
	if spare(m.ProtoReflect().Descriptor(), data, maxParts) < 0 {
		return fmt.Errorf("it has more than %d parts", maxParts)
	}
	return proto.Unmarshal(data, m)
}

// spare is how many parts are left of so many when those of a message are taken
// away; less than none if they do not suffice. What is malformed ends the count,
// as it will end the reading.
func spare(md protoreflect.MessageDescriptor, b []byte, left int) int {
	for len(b) > 0 && left >= 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return left
		}
		b, left = b[n:], left-1
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return left
		}
		if f := md.Fields().ByNumber(num); f != nil && typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			left = within(f, value, left)
		}
		b = b[n:]
	}
	return left
}

// within takes away what is in the value of a field.
func within(f protoreflect.FieldDescriptor, value []byte, left int) int {
	switch {
	case f.Message() != nil:
		return spare(f.Message(), value, left)
	case f.IsPacked():
		for _, c := range value {
			if c < 0x80 { // the last byte of a number
				left--
			}
		}
	}
	return left
}
