// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest_test

import (
	"fmt"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// What PVE gives back is spelled in another way than what is desired. Only
// what means something else is a change, and it is sent with the MAC address
// that PVE generated.
func ExampleTable_Diff() {
	actual := guest.Config{
		"description": "managed\n",
		"tags":        "prod;web",
		"memory":      "1024",
		"net0":        "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:2E:5F:01,type=veth",
	}
	desired := guest.Config{
		"description": "managed",
		"tags":        "Web, prod",
		"memory":      "2048",
		"net0":        "bridge=vmbr1,name=eth0",
		"onboot":      "0",
	}
	facts := guest.Facts{Kind: guest.LXC, Running: true, PVE: 9}
	for _, c := range guest.Standard().Diff(facts, desired, nil, actual) {
		fmt.Printf("%s=%s (%s, %s)\n", c.Key, c.Send, c.Class, c.Effect)
	}
	// Output:
	// memory=2048 (benign, live)
	// net0=bridge=vmbr1,name=eth0,hwaddr=BC:24:11:2E:5F:01,type=veth (benign, live)
}

// Anything that PVE would refuse or be hurt by has a reason not to be sent.
func ExampleTable_Check() {
	err := guest.Standard().Check(guest.LXC, "cores", "+2")
	fmt.Println(err)
	// Output:
	// guest: lxc cores: "+2" is not a whole number: want digits only, 1 to 8192
}
