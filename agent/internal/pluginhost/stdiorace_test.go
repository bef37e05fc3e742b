// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A connection may be given up before what reads the plugin's output over it
// has begun.
func TestConnectionGivenUpAtOnce(t *testing.T) {
	for range 200 {
		conn, err := grpc.NewClient("passthrough:///nobody", grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		p := &Process{r: &running{conn: conn}}
		p.r.watchStdio()
		if err := p.Disconnect(); err != nil {
			t.Error(err)
		}
		p.r.wg.Wait()
	}
}
