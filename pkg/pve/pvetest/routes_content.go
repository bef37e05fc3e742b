// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// contentRoutes are single volumes of a storage, and the config in a backup.
func contentRoutes() []route {
	one := "/nodes/{node}/storage/{storage}/content/{volume}"
	return []route{
		{method: "GET", path: one, protected: true, run: getVolume},
		{
			method: "PUT", path: one, protected: true, run: changeVolume,
			params: []schema.Param{{Name: "notes"}, {Name: "protected", Type: schema.Boolean}},
		},
		{
			method: "DELETE", path: one, protected: true, run: deleteVolume,
			params: []schema.Param{{Name: "delay", Type: schema.Integer, Min: schema.F(1), Max: schema.F(30)}},
		},
		{
			method: "GET", path: "/nodes/{node}/vzdump/extractconfig", protected: true, run: extractConfig,
			params: []schema.Param{{Name: "volume", Required: true}},
		},
	}
}

// volumeID is the volume in the path: a full id or a name on the storage.
func (c *call) volumeID() string {
	name := c.path["volume"]
	if u, err := url.PathUnescape(name); err == nil {
		name = u
	}
	if strings.HasPrefix(name, c.path["storage"]+":") {
		return name
	}
	return c.path["storage"] + ":" + name
}

var (
	imageNameRE = regexp.MustCompile(`^(?:\d+/\S+/)?(\d+)/[^/]+$`)
	fileNameRE  = regexp.MustCompile(`^(?:iso|vztmpl|backup|snippets|import)/[^/]+$`)
	// poolNameRE is a volume of a storage without files.
	poolNameRE = regexp.MustCompile(`^(?:base(?:vol)?-\d+-[^/]+/)?(?:vm|base|subvol|basevol)-(\d+)-[^/]+$`)
	dumpNameRE = regexp.MustCompile(`^backup/vzdump-(?:lxc|qemu)-(\d+)-`)
)

// parseVolume gives the owner that a volume's name tells, 0 for none.
func parseVolume(volid string) (owner string, err error) {
	name := imageName(volid)
	switch {
	case imageNameRE.MatchString(name) && !strings.Contains(name, ".."):
		return imageNameRE.FindStringSubmatch(name)[1], nil
	case dumpNameRE.MatchString(name):
		return dumpNameRE.FindStringSubmatch(name)[1], nil
	case fileNameRE.MatchString(name):
		return "", nil
	case poolNameRE.MatchString(name):
		return poolNameRE.FindStringSubmatch(name)[1], nil
	}
	return "", die("unable to parse directory volume name '%s'", name)
}

// mayVolume is PVE's check that a caller may read a volume.
func (c *call) mayVolume(volid, owner string) error {
	store := "/storage/" + storageOf(volid)
	isBackup := strings.HasPrefix(imageName(volid), "backup/")
	switch {
	case c.may(store, "Datastore.Allocate"):
		return nil
	case owner == "":
		return c.need(store, "Datastore.AllocateSpace", "Datastore.Audit")
	case isBackup && c.may(store, "Datastore.AllocateSpace"):
		return c.need("/vms/"+owner, "VM.Backup")
	case isBackup:
		return c.need(store, "Datastore.AllocateSpace")
	}
	if err := c.need(store, "Datastore.Audit"); err != nil {
		return err
	}
	return c.need("/vms/"+owner, "VM.Config.Disk")
}

// findVolume finds the volume in the path and checks that the caller may
// read it.
func (c *call) findVolume() (*volumeState, error) {
	volid := c.volumeID()
	owner, err := parseVolume(volid)
	if err != nil {
		return nil, err
	}
	if err := c.mayVolume(volid, owner); err != nil {
		return nil, err
	}
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volume(volid)
	if v == nil {
		return nil, die("volume_size_info on '%s' failed", volid)
	}
	return v, nil
}

func getVolume(c *call) (any, error) {
	v, err := c.findVolume()
	if err != nil {
		return nil, err
	}
	path := c.sim.volumePath(v.VolID)
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]any{"path": path, "size": v.Size, "used": either3(v.used, v.Size), "format": v.Format}
	if v.Content == "backup" {
		m["format"], m["notes"], m["protected"] = "raw", v.Notes, b2i(v.protected)
	}
	return m, nil
}

// changeVolume sets the notes and the protection of a backup.
func changeVolume(c *call) (any, error) {
	v, err := c.findVolume()
	if err != nil {
		return nil, err
	}
	if err := c.need("/storage/"+c.path["storage"], "Datastore.Allocate", "Datastore.AllocateSpace"); err != nil {
		return nil, err
	}
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Content != "backup" {
		return nil, die("attribute 'notes' is not supported for storage type '%s'", s.storage(c.path["storage"]).Type)
	}
	if c.in.Has("notes") {
		v.Notes = c.in.Get("notes")
	}
	if c.in.Has("protected") {
		v.protected = c.in.Bool("protected")
	}
	s.noteLocked(Mutation{What: "volume attributes", User: c.authid, Detail: v.VolID})
	return nil, nil
}

// deleteVolume removes a volume in a task, whether a guest uses it or not; a
// file that is gone already is no failure.
func deleteVolume(c *call) (any, error) {
	volid := c.volumeID()
	owner, err := parseVolume(volid)
	if err != nil {
		return nil, err
	}
	store := "/storage/" + c.path["storage"]
	if err := c.mayDelete(store, volid, owner); err != nil {
		return nil, err
	}
	id := "@" + c.path["storage"]
	if owner != "" {
		id = owner + id
	}
	return c.sim.fork("imgdel", id, c.authid, func(t *task) error { return t.deleteVolume(volid) })
}

func (c *call) mayDelete(store, volid, owner string) error {
	if c.may(store, "Datastore.Allocate") {
		return nil
	}
	if owner == "" || !strings.HasPrefix(imageName(volid), "backup/") {
		return c.need(store, "Datastore.Allocate")
	}
	if err := c.need(store, "Datastore.AllocateSpace"); err != nil {
		return err
	}
	return c.need("/vms/"+owner, "VM.Backup")
}

func (t *task) deleteVolume(volid string) error {
	s := t.sim
	path := s.volumePath(volid)
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volume(volid)
	switch {
	case v == nil:
		t.say(fmt.Sprintf("disk image '%s' does not exist\n", path))
	case v.protected:
		return die("cannot remove protected volume '%s' on '%s'", imageName(volid), storageOf(volid))
	case s.hasClones(volid):
		return die("base volume '%s' is still in use by linked clones", imageName(volid))
	default:
		s.dropVolume(volid)
		s.noteLocked(Mutation{What: "delete volume", User: t.user, UPID: t.upid, Detail: volid})
	}
	t.say(fmt.Sprintf("Removed volume '%s'\n", volid))
	return nil
}

// extractConfig is the config in a backup.
func extractConfig(c *call) (any, error) {
	volid := c.in.Get("volume")
	owner, err := parseVolume(volid)
	if err != nil {
		return nil, err
	}
	if err := c.mayVolume(volid, owner); err != nil {
		return nil, err
	}
	s := c.sim
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.volume(volid)
	if v == nil || v.backup == "" {
		return nil, die("volume '%s' does not exist", volid)
	}
	return v.backup, nil
}
