// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Storage is one storage as a node sees it.
type Storage struct {
	ID      string
	Type    string
	Content string // kinds of content, with ","
	Active  bool
	Shared  bool
	Total   int64 // bytes
	Used    int64
	Avail   int64
}

type rawStorage struct {
	Storage text   `json:"storage"`
	Type    text   `json:"type"`
	Content text   `json:"content"`
	Active  number `json:"active"`
	Shared  number `json:"shared"`
	Total   number `json:"total"`
	Used    number `json:"used"`
	Avail   number `json:"avail"`
}

func (r rawStorage) storage(id string) Storage {
	return Storage{
		ID: id, Type: string(r.Type), Content: string(r.Content), Active: r.Active.bool(), Shared: r.Shared.bool(),
		Total: int64(r.Total), Used: int64(r.Used), Avail: int64(r.Avail),
	}
}

var storagePattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]$`)

// ValidStorage reports whether s can be the id of a storage.
func ValidStorage(s string) bool { return storagePattern.MatchString(s) }

// Storages lists the enabled storages of a node that have a kind of content
// ("" = any) and that the token may see. The others are left out silently.
func (c *Client) Storages(ctx context.Context, node, content string) ([]Storage, error) {
	q := url.Values{"enabled": {"1"}}
	if content != "" {
		q.Set("content", content)
	}
	raw, _, err := getList[rawStorage](ctx, c, "/nodes/"+node+"/storage", q)
	if err != nil {
		return nil, err
	}
	var out []Storage
	for _, r := range raw {
		out = append(out, r.storage(string(r.Storage)))
	}
	return out, nil
}

// Storage reads the state of one storage.
func (c *Client) Storage(ctx context.Context, node, id string) (Storage, error) {
	path, err := storagePath(http.MethodGet, node, id)
	if err != nil {
		return Storage{}, err
	}
	var raw rawStorage
	if err := c.get(ctx, path+"/status", nil, &raw); err != nil {
		return Storage{}, err
	}
	return raw.storage(id), nil
}

func storagePath(method, node, id string) (string, error) {
	path := "/nodes/" + node + "/storage/" + id
	if !ValidNode(node) || !ValidStorage(id) {
		return "", &Error{Kind: ErrNotSent, Method: method, Path: path, Err: fmt.Errorf("%q is no storage of a node", path)}
	}
	return path, nil
}

// Volume is one volume in a storage's content.
type Volume struct {
	ID        string // "local:backup/vzdump-lxc-101-2026_11_23-09_02_37.tar.zst"
	Content   string // "images", "rootdir", "backup", "vztmpl", "iso", "snippets", "import"
	Format    string
	Size      int64 // bytes
	Time      time.Time
	VMID      guest.VMID // 0 if it is nobody's
	Protected bool
	// Verified is the state of a backup's verification: "ok", "failed" or "".
	Verified string
}

// Content lists a storage's volumes of a kind of content that belong to a
// guest; 0 lists everybody's. What the token may not see is left out silently.
func (c *Client) Content(ctx context.Context, node, storage, content string, v guest.VMID) ([]Volume, error) {
	type entry struct {
		VolID        text   `json:"volid"`
		Content      text   `json:"content"`
		Format       text   `json:"format"`
		Size         number `json:"size"`
		CTime        number `json:"ctime"`
		VMID         number `json:"vmid"`
		Protected    number `json:"protected"`
		Verification struct {
			State text `json:"state"`
		} `json:"verification"`
	}
	path, err := storagePath(http.MethodGet, node, storage)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	if content != "" {
		q.Set("content", content)
	}
	if v != 0 {
		q.Set("vmid", v.String())
	}
	entries, _, err := getList[entry](ctx, c, path+"/content", q)
	if err != nil {
		return nil, err
	}
	var out []Volume
	for _, e := range entries {
		// PVE's own filters let some things through: snippets are everybody's.
		if v != 0 && guest.VMID(e.VMID) != v || content != "" && string(e.Content) != content {
			continue
		}
		vol := Volume{
			ID: string(e.VolID), Content: string(e.Content), Format: string(e.Format), Size: int64(e.Size),
			VMID: guest.VMID(e.VMID), Protected: e.Protected.bool(), Verified: string(e.Verification.State),
		}
		if e.CTime != 0 {
			vol.Time = time.Unix(int64(e.CTime), 0)
		}
		out = append(out, vol)
	}
	return out, nil
}

// volumePattern is a volume id without what could leave its place in a URL.
var volumePattern = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]):([a-zA-Z0-9@+=:~_-][a-zA-Z0-9@+=:~._-]*(?:/[a-zA-Z0-9@+=:~_-][a-zA-Z0-9@+=:~._-]*)*)$`)

// maxVolume bounds a volume id, in bytes.
const maxVolume = 512

// SplitVolume splits a volume id into the storage's id and the volume's name;
// ok is false for what is no volume id.
func SplitVolume(volid string) (storage, name string, ok bool) {
	m := volumePattern.FindStringSubmatch(volid)
	if m == nil || len(volid) > maxVolume {
		return "", "", false
	}
	return m[1], m[2], true
}

// DeleteVolume removes a volume, whether or not a guest uses it. The task's id
// is that of VolumeTaskID; of a volume that is not there the task is OK too.
func (c *Client) DeleteVolume(ctx context.Context, node, volid string) (UPID, error) {
	storage, _, ok := SplitVolume(volid)
	if !ok {
		return UPID{}, &Error{Kind: ErrNotSent, Method: http.MethodDelete, Path: "/nodes/" + node, Err: fmt.Errorf("%q is no volume id", volid)}
	}
	path, err := storagePath(http.MethodDelete, node, storage)
	if err != nil {
		return UPID{}, err
	}
	return c.task(ctx, http.MethodDelete, path+volumeDir+volid, nil)
}

// VolumeTaskID is the id of a task about a guest's volume: "830@local".
func VolumeTaskID(v guest.VMID, storage string) string { return v.String() + "@" + storage }

// volumeDir is where a path goes on with a volume id, whose slashes are a part
// of it.
const volumeDir = "/content/"

// escapedPath is the path with the slashes of a volume id escaped, "" if there
// are none.
func escapedPath(path string) string {
	dir, volid, ok := strings.Cut(path, volumeDir)
	if !ok || !strings.Contains(dir, "/storage/") {
		return ""
	}
	return dir + volumeDir + url.PathEscape(volid)
}

// ExtractConfig reads the config that a backup holds, as the text of a config
// file.
func (c *Client) ExtractConfig(ctx context.Context, node, volid string) (string, error) {
	var raw text
	err := c.get(ctx, "/nodes/"+node+"/vzdump/extractconfig", url.Values{"volume": {volid}}, &raw)
	return string(raw), err
}
