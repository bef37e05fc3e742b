// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest"
)

// nodeOrders are the orders about the node itself.
var nodeOrders = map[string]func(*pvetest.Sim, []string) error{
	"storage":    storageOrder,
	"volume":     volumeOrder,
	"datacenter": datacenterOrder,
	"times":      timesOrder,
	"hold":       holdOrder,
}

// number reads a number of a form; what is absent is 0.
func number(vals map[string]string, key string) (int64, error) {
	if vals[key] == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(vals[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("order: %s: %w", key, err)
	}
	return n, nil
}

// numbers reads several.
func numbers(vals map[string]string, into map[string]*int64) error {
	for key, p := range into {
		n, err := number(vals, key)
		if err != nil {
			return err
		}
		*p = n
	}
	return nil
}

func storageOrder(sim *pvetest.Sim, f []string) error {
	vals, err := formMap(f[0])
	if err != nil {
		return err
	}
	var keep int64
	st := pvetest.Storage{ID: vals["id"], Path: vals["path"], Content: strings.Split(vals["content"], ","), FileSystem: vals["fs"]}
	if err := numbers(vals, map[string]*int64{"total": &st.Total, "used": &st.Used, "avail": &st.Avail, "keep": &keep}); err != nil {
		return err
	}
	st.Keep = int(keep)
	return sim.AddStorage(st)
}

func volumeOrder(sim *pvetest.Sim, f []string) error {
	v := pvetest.Volume{VolID: f[0], Content: f[1], Format: f[2], Size: 1, CTime: sim.Now().Unix()}
	if len(f) > 3 {
		var err error
		if v.VMID, err = strconv.Atoi(f[3]); err != nil {
			return fmt.Errorf("order volume: %w", err)
		}
	}
	return sim.AddVolume(v)
}

func datacenterOrder(sim *pvetest.Sim, f []string) error {
	vals, err := formMap(f[0])
	if err != nil {
		return err
	}
	var lower, upper, bw int64
	if err := numbers(vals, map[string]*int64{"lower": &lower, "upper": &upper, "bwlimit": &bw}); err != nil {
		return err
	}
	sim.SetDatacenter(pvetest.Datacenter{NextIDLower: int(lower), NextIDUpper: int(upper), BackupBandwidth: int(bw)})
	return nil
}

func timesOrder(sim *pvetest.Sim, f []string) error {
	vmid, err := strconv.Atoi(f[0])
	if err != nil {
		return fmt.Errorf("order times: %w", err)
	}
	vals, err := formMap(f[1])
	if err != nil {
		return err
	}
	var t pvetest.Times
	for key, p := range map[string]*time.Duration{"start": &t.Start, "stop": &t.Stop, "shutdown": &t.Shutdown, "lingering": &t.Lingering} {
		if vals[key] == "" {
			continue
		}
		if *p, err = time.ParseDuration(vals[key]); err != nil {
			return fmt.Errorf("order times: %w", err)
		}
	}
	t.NoShutdown = vals["noshutdown"] == "1"
	return sim.SetTimes(vmid, t)
}

func holdOrder(sim *pvetest.Sim, f []string) error {
	vmid, err := strconv.Atoi(f[0])
	if err != nil {
		return fmt.Errorf("order hold: %w", err)
	}
	d, err := time.ParseDuration(f[1])
	if err != nil {
		return fmt.Errorf("order hold: %w", err)
	}
	return sim.HoldLock(context.Background(), vmid, d)
}
