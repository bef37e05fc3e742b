// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// meaning is what a revision is a hash of: everything a document says of a
// guest, each thing in one form. It must not depend on the normal forms, or an
// upgrade of the agent would look like a new desire and end the holds that
// people put on guests by stopping them.
type meaning struct {
	VMID         guest.VMID
	Kind         guest.Kind
	Mode         Mode              `json:",omitempty"`
	Run          guest.RunState    `json:",omitempty"`
	Stop         StopWay           `json:",omitempty"`
	StopTimeout  time.Duration     `json:",omitempty"`
	Config       map[string]string `json:",omitempty"`
	Delete       []string          `json:",omitempty"`
	Disks        map[string]int64  `json:",omitempty"`
	ManualRun    OnManual
	ManualConfig OnManual
	Manual       map[string]OnManual `json:",omitempty"` // where it differs from ManualConfig
	Ignore       []string            `json:",omitempty"`
	HA           string              `json:",omitempty"`
	Provision    *Provision          `json:",omitempty"`
}

// revision hashes the guest's meaning. The lists are sorted by the reader.
func (g *Guest) revision(secret func(key string) bool) string {
	m := meaning{
		VMID: g.VMID, Kind: g.Kind, Mode: g.Mode, Run: g.Run, Stop: g.Stop, StopTimeout: g.StopTimeout,
		Config: g.hidden(g.Config, secret), Delete: g.Delete, Disks: g.Disks,
		ManualRun: g.Manual(RunField), ManualConfig: g.Manual(manualConfig), Manual: map[string]OnManual{},
		Ignore: g.Ignore, HA: g.HA,
	}
	if m.Mode == Enforce { // narrows nothing
		m.Mode = ""
	}
	if m.Stop == StopShutdown {
		m.Stop = ""
	}
	for key, what := range g.OnManual {
		if key != RunField && what != m.ManualConfig {
			m.Manual[key] = what
		}
	}
	if g.Provision != nil {
		p := *g.Provision
		p.Config = g.hidden(p.Config, secret)
		m.Provision = &p
	}
	data, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("desired: a guest that cannot be written as JSON: %v", err)) // strings and numbers only
	}
	sum := sha256.Sum256(append([]byte("felhom guest revision 1\n"), data...))
	return hex.EncodeToString(sum[:])
}

// secretRounds makes guessing a secret from a revision slow: revisions go into
// logs and reports, the secrets in them must not.
const secretRounds = 2_000

// hidden replaces the secrets in c by what a slow hash makes of them.
func (g *Guest) hidden(c guest.Config, secret func(key string) bool) guest.Config {
	out := guest.Config{}
	for key, value := range c {
		if secret(key) {
			salt := fmt.Appendf(nil, "felhom %s %s", g.VMID, key)
			sum, err := pbkdf2.Key(sha256.New, value, salt, secretRounds, sha256.Size)
			if err != nil {
				panic(fmt.Sprintf("desired: pbkdf2: %v", err)) // only for a key length beyond reason
			}
			value = hex.EncodeToString(sum)
		}
		out[key] = value
	}
	return out
}
