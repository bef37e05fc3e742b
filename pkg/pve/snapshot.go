// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Snapshot is one snapshot of a guest.
type Snapshot struct {
	Name        string
	Description string
	Parent      string
	Time        time.Time
	// State is "" of a snapshot that is whole, else what it is in the middle
	// of: "prepare", "delete".
	State string
}

// Snapshots lists a guest's snapshots, oldest first, and the digest of the
// config at that moment.
func (c *Client) Snapshots(ctx context.Context, r Ref) (list []Snapshot, digest string, err error) {
	type entry struct {
		Name        text   `json:"name"`
		Description text   `json:"description"`
		Parent      text   `json:"parent"`
		SnapTime    number `json:"snaptime"`
		SnapState   text   `json:"snapstate"`
		Digest      text   `json:"digest"`
	}
	if err := r.check(http.MethodGet); err != nil {
		return nil, "", err
	}
	entries, _, err := getList[entry](ctx, c, r.path()+"/snapshot", nil)
	if err != nil {
		return nil, "", err
	}
	for _, e := range entries {
		if e.Name == "current" {
			digest = string(e.Digest)
			continue
		}
		s := Snapshot{Name: string(e.Name), Description: string(e.Description), Parent: string(e.Parent), State: string(e.SnapState)}
		if e.SnapTime != 0 {
			s.Time = time.Unix(int64(e.SnapTime), 0)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Snapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Name, b.Name))
	})
	return list, digest, nil
}

// SnapshotConfig reads the config as a snapshot keeps it.
func (c *Client) SnapshotConfig(ctx context.Context, r Ref, name string) (Config, error) {
	return c.config(ctx, r, url.Values{"snapshot": {name}})
}

var snapshotPattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{1,39}$`)

// ValidSnapshot reports whether PVE takes a name for a snapshot.
func ValidSnapshot(name string) bool {
	return snapshotPattern.MatchString(name) && name != "current" && name != "vzdump" && name != "pending"
}

// snapshotPath is where one snapshot is.
func (r Ref) snapshotPath(method, name string) (string, error) {
	if !ValidSnapshot(name) {
		return "", &Error{Kind: ErrNotSent, Method: method, Path: r.path() + "/snapshot", Err: fmt.Errorf("%q is no name of a snapshot", name)}
	}
	return "/snapshot/" + name, nil
}

// TakeSnapshot begins a snapshot of the guest's disks.
func (c *Client) TakeSnapshot(ctx context.Context, r Ref, name, description string) (UPID, error) {
	form := url.Values{"snapname": {name}}
	if description != "" {
		form.Set("description", description)
	}
	return c.change(ctx, http.MethodPost, r, "/snapshot", form)
}

// Rollback puts a guest back to a snapshot. It stops the guest, and what was
// written since is lost.
func (c *Client) Rollback(ctx context.Context, r Ref, name string) (UPID, error) {
	sub, err := r.snapshotPath(http.MethodPost, name)
	if err != nil {
		return UPID{}, err
	}
	return c.change(ctx, http.MethodPost, r, sub+"/rollback", nil)
}

// DeleteSnapshot removes a snapshot.
func (c *Client) DeleteSnapshot(ctx context.Context, r Ref, name string) (UPID, error) {
	sub, err := r.snapshotPath(http.MethodDelete, name)
	if err != nil {
		return UPID{}, err
	}
	return c.change(ctx, http.MethodDelete, r, sub, nil)
}
