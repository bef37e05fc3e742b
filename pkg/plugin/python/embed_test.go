// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package python_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/felhom/felhom-agent/pkg/plugin/pluginpb"
	"github.com/felhom/felhom-agent/pkg/plugin/python"
)

var update = flag.Bool("update", false, "write felhom_plugin_pb.py anew")

// head is what stands before the descriptors.
const head = `# Copyright The felhom-agent authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of felhom.plugin.v1, made of the descriptors below at run time.

Written by "go test ./pkg/plugin/python -update". Descriptors and not the code of
one protoc: they work with every version of the protobuf package.
"""

import base64

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf import duration_pb2, timestamp_pb2  # noqa: F401, they must be in the pool

PACKAGE = "felhom.plugin.v1"


def _load():
    pool = descriptor_pool.Default()
    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(DESCRIPTORS))
    for f in files.file:
        pool.AddSerializedFile(f.SerializeToString())
    return pool


def message(name):
    """The class of a message of the protocol."""
    if name not in _classes:
        d = _pool.FindMessageTypeByName(PACKAGE + "." + name)
        if hasattr(message_factory, "GetMessageClass"):
            _classes[name] = message_factory.GetMessageClass(d)
        else:
            _classes[name] = message_factory.MessageFactory(_pool).GetPrototype(d)
    return _classes[name]


DESCRIPTORS = """
`

const foot = `"""
_pool = _load()
_classes = {}
`

// The messages of the kit are those of the protocol.
func TestMessagesAreTheProtocols(t *testing.T) {
	var set descriptorpb.FileDescriptorSet
	for _, f := range []protoreflect.FileDescriptor{
		pluginpb.File_felhom_plugin_v1_plugin_proto, pluginpb.File_felhom_plugin_v1_executor_proto,
		pluginpb.File_felhom_plugin_v1_provider_proto,
	} {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&set)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte(head + wrap(base64.StdEncoding.EncodeToString(raw)) + foot)
	if *update {
		if err := os.WriteFile(python.MessagesName, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, python.Messages) {
		t.Errorf("%s is not of this protocol: go test ./pkg/plugin/python -update", python.MessagesName)
	}
}

func wrap(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		n := min(len(s), 100)
		fmt.Fprintln(&b, s[:n])
		s = s[n:]
	}
	return b.String()
}
