// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

// watchStdio begins readStdio. The connection may be given up before the reader
// has begun (Process.Disconnect).
func (r *running) watchStdio() {
	conn := r.conn
	r.wg.Go(func() { r.readStdio(conn) })
}

// readStdio reads what a Go plugin prints after the handshake: go-plugin sends
// it as a stream of the service plugin.GRPCStdio, and a plugin that nobody
// reads would block in its prints. It returns when the connection is closed.
// A plugin without that service is not missed.
func (r *running) readStdio(conn *grpc.ClientConn) {
	ctx, cancel := context.WithCancel(context.Background()) // ended by conn.Close
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/plugin.GRPCStdio/StreamStdio",
		grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return
	}
	if stream.SendMsg(&emptypb.Empty{}) != nil || stream.CloseSend() != nil {
		return
	}
	split := map[string]*splitter{}
	for {
		var msg []byte
		if stream.RecvMsg(&msg) != nil {
			return
		}
		name, data := parseStdio(msg)
		if split[name] == nil {
			split[name] = &splitter{line: func(l string) { r.log.line(name, l) }}
		}
		split[name].write(data)
	}
}

// parseStdio reads a plugin.StdioData: a channel (1 is stdout, 2 is stderr)
// and bytes. go-plugin does not export its type, and a second one of the same
// name cannot be registered.
func parseStdio(msg []byte) (name string, data []byte) {
	name = "stdio"
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return name, data
		}
		msg = msg[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(msg)
			name = map[uint64]string{1: "stdout", 2: "stderr"}[v]
		case num == 2 && typ == protowire.BytesType:
			data, n = protowire.ConsumeBytes(msg)
		default:
			n = protowire.ConsumeFieldValue(num, typ, msg)
		}
		if n < 0 {
			return name, data
		}
		msg = msg[n:]
	}
	return name, data
}

// splitter makes lines of at most maxLine bytes out of pieces.
type splitter struct {
	line func(string)
	rest []byte
}

func (s *splitter) write(p []byte) {
	for _, b := range p {
		if b != '\n' {
			s.rest = append(s.rest, b)
		}
		if b == '\n' || len(s.rest) >= maxLine {
			s.line(string(s.rest))
			s.rest = s.rest[:0]
		}
	}
}

// rawCodec leaves received messages as they are and sends empty ones.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(any) ([]byte, error) { return nil, nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	p, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("pluginhost: raw message into %T", v)
	}
	*p = append([]byte(nil), data...)
	return nil
}
