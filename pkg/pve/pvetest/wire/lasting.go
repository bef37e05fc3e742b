// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"net"
	"os"
)

// lasting is a listener whose connections TLS may use again. A server ends its
// wait for the next request by a deadline; bufconn calls that an error that is
// not [os.ErrDeadlineExceeded], and TLS gives such a connection up: each
// request would begin with a handshake.
type lasting struct{ net.Listener }

// Accept implements net.Listener.
func (l lasting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return lastingConn{c}, nil
}

type lastingConn struct{ net.Conn }

func (c lastingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if te := net.Error(nil); errors.As(err, &te) && te.Timeout() {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}
