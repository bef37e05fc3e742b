// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// guestFile is the format of --guests; README.md describes it.
type guestFile struct {
	Guest []struct {
		Kind    string         `toml:"kind"`
		VMID    int            `toml:"vmid"`
		Running bool           `toml:"running"`
		Config  map[string]any `toml:"config"`
		Start   duration       `toml:"start"`
		Stop    duration       `toml:"stop"`
		Down    duration       `toml:"shutdown"`
		Closing duration       `toml:"closing"`
		Deaf    bool           `toml:"ignores_shutdown"`
	} `toml:"guest"`
}

// duration is a time.Duration in TOML, "1.5s".
type duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = fmt.Errorf("duration %s is negative", b)
	}
	*d = duration(v)
	return err
}

func readGuests(path string) ([]pvetest.GuestSpec, error) {
	var f guestFile
	md, err := toml.DecodeFile(path, &f)
	if err != nil {
		return nil, fmt.Errorf("guests file %s: %w", path, err)
	}
	if un := md.Undecoded(); len(un) > 0 {
		return nil, fmt.Errorf("guests file %s: unknown key %s", path, un[0])
	}
	var out []pvetest.GuestSpec
	for _, g := range f.Guest {
		cfg, err := configText(g.Config)
		if err != nil {
			return nil, fmt.Errorf("guests file %s: guest %d: %w", path, g.VMID, err)
		}
		if g.Kind == string(guest.LXC) && cfg["arch"] == "" {
			cfg["arch"] = "amd64" // every container has one
		}
		out = append(out, pvetest.GuestSpec{
			Kind: guest.Kind(g.Kind), VMID: g.VMID, Running: g.Running, Config: cfg,
			Times: pvetest.Times{
				Start: time.Duration(g.Start), Stop: time.Duration(g.Stop), Shutdown: time.Duration(g.Down),
				Closing: time.Duration(g.Closing), NoShutdown: g.Deaf,
			},
		})
	}
	return out, nil
}

// configText gives config values the form they have in a config file.
func configText(in map[string]any) (map[string]string, error) {
	out := map[string]string{}
	for k, v := range in {
		switch v := v.(type) {
		case string:
			out[k] = v
		case int64:
			out[k] = strconv.FormatInt(v, 10)
		case float64:
			out[k] = strconv.FormatFloat(v, 'f', -1, 64)
		case bool:
			out[k] = "0"
			if v {
				out[k] = "1"
			}
		default:
			return nil, fmt.Errorf("config key %s: want text, a number or a boolean", k)
		}
	}
	return out, nil
}
