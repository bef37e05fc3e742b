// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/wire"
)

const token = "agent@pve!full=00000000-0000-0000-0000-000000000001"

func sim(t *testing.T) *pvetest.Sim {
	t.Helper()
	s, err := pvetest.New(pvetest.Options{
		Version: "9.2.11", Node: "N",
		Users: []pvetest.User{{ID: "agent@pve", Tokens: []pvetest.Token{{ID: "full", Secret: "00000000-0000-0000-0000-000000000001"}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestClientByEveryClock: a certificate serves the tests outside of bubbles
// and those within, whoever is first.
func TestClientByEveryClock(t *testing.T) {
	ask := func(t *testing.T) {
		if v, err := wire.Client(t, sim(t).Server(), token).Version(t.Context()); err != nil || v.Major() != 9 {
			t.Errorf("%+v, %v", v, err)
		}
	}
	ask(t)
	synctest.Test(t, ask)
	ask(t)
	synctest.Test(t, ask)
}

// TestConnectionLasts: the reads of a client share a connection.
func TestConnectionLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := wire.Serve(t, sim(t).Server())
		dials, dial := 0, o.Dial
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return dial(ctx, network, addr)
		}
		var err error
		if o.Token, err = pve.ParseToken(token); err != nil {
			t.Fatal(err)
		}
		c, err := pve.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 5 {
			if _, err := c.Version(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if dials != 1 {
			t.Errorf("%d connections for 5 reads", dials)
		}
	})
}
