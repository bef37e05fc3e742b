// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Version is that of the node that answers.
type Version struct {
	Version string // "8.4.21"
	Release string // "8.4"
}

// Major is the first number of the version, 0 if there is none.
func (v Version) Major() int {
	first, _, _ := strings.Cut(v.Version, ".")
	n, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return n
}

// Version reads the version of PVE.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var raw struct{ Version, Release text }
	err := c.get(ctx, "/version", nil, &raw)
	return Version{Version: string(raw.Version), Release: string(raw.Release)}, err
}

// Resource is a guest in the list of the whole cluster.
type Resource struct {
	Ref
	Name     string
	Lock     string
	Tags     string
	Template bool
	HAState  string
}

// Resources lists the guests of the whole cluster that the token may audit.
// Node, lock and tags are fresh; the run state is not, and is left out.
func (c *Client) Resources(ctx context.Context) ([]Resource, error) {
	type entry struct {
		Type     text   `json:"type"`
		Node     text   `json:"node"`
		VMID     number `json:"vmid"`
		Name     text   `json:"name"`
		Lock     text   `json:"lock"`
		Tags     text   `json:"tags"`
		Template number `json:"template"`
		HAState  text   `json:"hastate"`
	}
	raw, _, err := getList[entry](ctx, c, "/cluster/resources", url.Values{"type": {"vm"}})
	if err != nil {
		return nil, err
	}
	var out []Resource
	for _, e := range raw {
		kind := guest.Kind(e.Type)
		if !kind.Valid() {
			continue
		}
		out = append(out, Resource{
			Ref:  Ref{Node: string(e.Node), ID: guest.ID{Kind: kind, VMID: guest.VMID(e.VMID)}},
			Name: string(e.Name), Lock: string(e.Lock), Tags: string(e.Tags),
			Template: e.Template.bool(), HAState: string(e.HAState),
		})
	}
	return out, nil
}

// Cluster is the state of the cluster as one node sees it.
type Cluster struct {
	Name string // "" of a node on its own
	// Quorate is whether the cluster file system can be written. A node on its
	// own always is.
	Quorate bool
	Nodes   []ClusterNode
}

// ClusterNode is a member of the cluster.
type ClusterNode struct {
	Name   string
	Local  bool // the node that answers
	Online bool
}

// Cluster reads the state of the cluster. It needs Sys.Audit on "/".
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	type row struct {
		Type    text   `json:"type"`
		Name    text   `json:"name"`
		Quorate number `json:"quorate"`
		Local   number `json:"local"`
		Online  number `json:"online"`
	}
	rows, _, err := getList[row](ctx, c, "/cluster/status", nil)
	if err != nil {
		return Cluster{}, err
	}
	out := Cluster{Quorate: true}
	for _, r := range rows {
		switch r.Type {
		case "cluster":
			out.Name, out.Quorate = string(r.Name), r.Quorate.bool()
		case "node":
			out.Nodes = append(out.Nodes, ClusterNode{Name: string(r.Name), Local: r.Local.bool(), Online: r.Online.bool()})
		}
	}
	return out, nil
}

// NextID is a VMID that is free at the moment. It is not reserved.
func (c *Client) NextID(ctx context.Context) (guest.VMID, error) {
	var raw text
	if err := c.get(ctx, "/cluster/nextid", nil, &raw); err != nil {
		return 0, err
	}
	id, err := guest.ParseVMID(string(raw))
	if err != nil {
		return 0, c.garbled("/cluster/nextid", err)
	}
	return id, nil
}

// Taken reports whether a guest of the cluster has the VMID, seen or not: PVE
// tells everybody that much.
func (c *Client) Taken(ctx context.Context, v guest.VMID) (bool, error) {
	var raw text
	err := c.get(ctx, "/cluster/nextid", url.Values{"vmid": {v.String()}}, &raw)
	if KindOf(err) == ErrExists {
		return true, nil
	}
	return false, err
}

// Permissions are the token's effective privileges by path, and whether each
// propagates to what is below.
type Permissions map[string]map[string]bool

// Has reports whether the token has a privilege on exactly this path.
func (p Permissions) Has(path, privilege string) bool {
	_, ok := p[path][privilege]
	return ok
}

// HasBelow reports whether the token has a privilege on this path and, but for
// what has an entry of its own, on all that is below.
func (p Permissions) HasBelow(path, privilege string) bool { return p[path][privilege] }

// Permissions reads the token's effective privileges: on one path, or with ""
// on every path that has an entry.
func (c *Client) Permissions(ctx context.Context, path string) (Permissions, error) {
	var query url.Values
	if path != "" {
		query = url.Values{"path": {path}}
	}
	var raw map[string]map[string]number
	if err := c.get(ctx, "/access/permissions", query, &raw); err != nil {
		return nil, err
	}
	out := make(Permissions, len(raw))
	for p, privs := range raw {
		out[p] = make(map[string]bool, len(privs))
		for name, propagates := range privs {
			out[p][name] = propagates.bool()
		}
	}
	return out, nil
}
