// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/felhom/felhom-agent/pkg/guest"
	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

// route is one method of the API.
type route struct {
	method, path string
	// protected methods run in one of pvedaemon's workers.
	protected bool
	// open methods need no credentials; noToken ones refuse API tokens.
	open, noToken bool
	params        []schema.Param
	// extra accepts parameters beyond params (config keys).
	extra func(*call, string) bool
	// also adds complaints about parameters that the schema does not know.
	also func(*call) map[string]string
	// perm returns an error when the caller may not; nil means any caller.
	perm func(*call) error
	run  func(*call) (any, error)
}

// call is one request on its way through a route.
type call struct {
	sim    *Sim
	ctx    context.Context // of the node, not of the client
	authid string          // user or full token id
	uri    string          // path below /api2/json, as asked
	path   map[string]string
	in     schema.Values
	total  *int     // "total" beside "data"
	raw    *rawBody // answers with this instead of JSON
	cli    bool     // at the command line: its tasks are its children
}

// rawBody is an answer that is not JSON.
type rawBody struct {
	contentType, disposition string
	body                     []byte
}

func (c *call) vmid() int { n, _ := strconv.Atoi(c.path["vmid"]); return n }

func (c *call) kind() guest.Kind {
	if strings.Contains(c.uri, "/qemu") {
		return guest.QEMU
	}
	return guest.LXC
}

// apiError is an error with its place in HTTP.
type apiError struct {
	status int
	reason string            // status line, one line
	params map[string]string // "errors" of a 400
	// bare answers carry no body; plain ones the reason as text.
	bare, plain bool
	message     string // body's message when it differs from reason + newline
}

func (e *apiError) Error() string { return e.reason }

// die is PVE's plain exception: a 500 with the text as reason.
func die(format string, args ...any) error {
	return &apiError{status: 500, reason: fmt.Sprintf(format, args...)}
}

func denied(format string, args ...any) error {
	return &apiError{status: 403, reason: "Permission check failed (" + fmt.Sprintf(format, args...) + ")"}
}

func badParams(errs map[string]string) error {
	return &apiError{status: 400, reason: "Parameter verification failed.", params: errs}
}

func badParam(name, format string, args ...any) error {
	return badParams(map[string]string{name: fmt.Sprintf(format, args...)})
}

// routeTree finds routes by method and path segments.
type routeTree struct {
	child map[string]*routeTree
	param *routeTree
	name  string // of the parameter
	leaf  map[string]*route
}

func newRouteTree(routes []route) *routeTree {
	root := &routeTree{}
	for i := range routes {
		root.add(&routes[i])
	}
	return root
}

func (t *routeTree) add(r *route) {
	for seg := range strings.SplitSeq(strings.Trim(r.path, "/"), "/") {
		if seg == "" {
			continue
		}
		t = t.descend(seg)
	}
	if t.leaf == nil {
		t.leaf = map[string]*route{}
	}
	t.leaf[r.method] = r
}

func (t *routeTree) descend(seg string) *routeTree {
	if strings.HasPrefix(seg, "{") {
		if t.param == nil {
			t.param = &routeTree{name: strings.Trim(seg, "{}")}
		}
		return t.param
	}
	if t.child == nil {
		t.child = map[string]*routeTree{}
	}
	if t.child[seg] == nil {
		t.child[seg] = &routeTree{}
	}
	return t.child[seg]
}

// find returns the route and the values of the path's parameters; a parameter
// named "volume" takes the rest of the path.
func (t *routeTree) find(method, path string) (*route, map[string]string) {
	vals := map[string]string{}
	segs := strings.Split(strings.Trim(path, "/"), "/")
	for i, seg := range segs {
		if seg == "" {
			continue
		}
		if next := t.child[seg]; next != nil {
			t = next
			continue
		}
		if t.param == nil {
			return nil, nil
		}
		t = t.param
		if t.name == "volume" {
			vals[t.name] = strings.Join(segs[i:], "/")
			break
		}
		vals[t.name] = seg
	}
	r := t.leaf[method]
	return r, vals
}
