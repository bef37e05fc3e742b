// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package hook_test

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/hook"
)

// What the hook helper does: post, and spool if that fails. Here an agent
// answers.
func Example() {
	dir, err := os.MkdirTemp("", "hook")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "hook.sock"))
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	agent := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	go func() { _ = http.Serve(ln, agent) }() // until ln is closed

	e := hook.New(101, guest.PreStart, os.Getenv("PVE_MIGRATED_FROM"))
	// The helper has hook.DefaultBudget; this one can wait.
	if err := hook.Post(ln.Addr().String(), e, 10*time.Second); err != nil {
		err = hook.Spool(filepath.Join(dir, "spool"), e)
		fmt.Println("not acknowledged; spooled:", err == nil)
		return
	}
	fmt.Println("acknowledged")
	// Output: acknowledged
}

func ExampleParse() {
	_, err := hook.Parse([]byte(`{"vmid": 7}`))
	fmt.Println(err)
	_, err = hook.Parse([]byte(`{"guest": 101}`))
	fmt.Println(err)
	// Output:
	// hook: id: want 1 to 128 of A-Z a-z 0-9 . _ -, not beginning with a dot: not a hook event
	// hook: "guest": no such field: not a hook event
}
