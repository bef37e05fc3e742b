// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"slices"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

func storageRoutes() []route {
	return []route{
		{
			method: "GET", path: "/nodes/{node}/storage", protected: true, run: listStorages,
			params: []schema.Param{
				{Name: "storage"},
				{Name: "content"},
				{Name: "enabled", Type: schema.Boolean},
				{Name: "target"},
				{Name: "format", Type: schema.Boolean},
			},
		},
		{method: "GET", path: "/nodes/{node}/storage/{storage}/status", protected: true, perm: storagePerm, run: storageStatus},
		{
			method: "GET", path: "/nodes/{node}/storage/{storage}/content", protected: true, perm: storagePerm, run: storageContent,
			params: []schema.Param{{Name: "content"}, {Name: "vmid", Type: schema.Integer, Min: schema.F(100), Max: schema.F(999999999)}},
		},
	}
}

func storagePerm(c *call) error {
	return c.need("/storage/"+c.path["storage"], "Datastore.Audit", "Datastore.AllocateSpace")
}

func listStorages(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []any{}
	for _, st := range s.storages {
		if !c.mayLocked("/storage/"+st.ID, "Datastore.Audit", "Datastore.AllocateSpace") {
			continue
		}
		if want := c.in.Get("content"); want != "" && !slices.Contains(st.Content, want) {
			continue
		}
		out = append(out, st.row())
	}
	return out, nil
}

func storageStatus(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.storage(c.path["storage"])
	if st == nil {
		return nil, die("storage '%s' does not exist", c.path["storage"])
	}
	return st.status(), nil
}

func storageContent(c *call) (any, error) {
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.storage(c.path["storage"])
	if st == nil {
		return nil, die("storage '%s' does not exist", c.path["storage"])
	}
	want, owner := c.in.Get("content"), c.in.Int("vmid", 0)
	out := []any{}
	for _, v := range st.sorted() {
		if want != "" && v.Content != want || owner != 0 && !v.listedFor(owner) || !c.seesVolume(v) {
			continue
		}
		out = append(out, v.contentRow())
	}
	return out, nil
}
