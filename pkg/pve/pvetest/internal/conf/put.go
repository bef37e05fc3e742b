// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"maps"
	"slices"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Request is a write of a guest's config: PUT of either kind, POST of a
// virtual machine's.
type Request struct {
	Version int // PVE's major version, 8 or 9
	Caller  Caller
	// Post is QEMU's POST: after the first checks the change is made by a
	// task, whose failure is Result.TaskErr.
	Post   bool
	Params map[string]string // as in a form; a list given twice is joined by NUL
	Env    *Env
}

// Result is what became of a write.
type Result struct {
	// Guest is the guest afterwards; the very one that was asked if the file
	// was not written. It may differ even when Err is set.
	Guest *Guest
	// Err is PVE's answer, nil = 200.
	Err *Error
	// Task is set when the answer is a task's UPID; TaskErr is then how it
	// ended, "" = OK.
	Task    bool
	TaskErr string
	// Effects is what the node did to volumes, in order.
	Effects []Effect
	// Log is what PVE printed on the way, for a task's log.
	Log []string
}

// Written reports whether the config file was written.
func (r Result) Written(before *Guest) bool { return r.Guest != before }

// Put writes the config as PVE would, in its order: privileges of the method,
// the parameters' schema, then the code with its own checks.
func (g *Guest) Put(r Request) Result {
	if err := g.mayWrite(r.Caller); err != nil {
		return Result{Guest: g, Err: err}
	}
	op := PutConfig
	if r.Post {
		op = PostConfig
	}
	if err := CheckParams(r.Version, g.Kind, op, r.Params); err != nil {
		return Result{Guest: g, Err: err}
	}
	if g.Kind == guest.QEMU {
		return g.putQEMU(r)
	}
	return g.putLXC(r)
}

// writePrivileges are those of which one lets a caller through to the code.
func writePrivileges(kind guest.Kind) []string {
	if kind == guest.QEMU {
		return []string{privDisk, privCDROM, privCPU, privMemory, privNetwork, privHWType, privOptions, privCloudinit}
	}
	return []string{privDisk, privCPU, privMemory, privNetwork, privOptions}
}

func (g *Guest) mayWrite(c Caller) *Error {
	return c.needAny(g.path(), writePrivileges(g.Kind)...)
}

// path is the guest's path in access control.
func (g *Guest) path() string { return "/vms/" + g.VMID.String() }

// Op is a request whose parameters CheckParams knows.
type Op int

// The requests that carry config keys.
const (
	PutConfig Op = iota
	PostConfig
	Create
	ResizeDisk
)

// CheckParams checks a request's parameters against PVE's schema: what PVE
// does after the privileges of the method and before its code. Parameters of
// the path (node, vmid) must not be among them.
func CheckParams(version int, kind guest.Kind, op Op, params map[string]string) *Error {
	errs := make(map[string]string)
	own := ownParams(kind, op)
	for name, value := range params {
		r, ok := own[name]
		if !ok {
			k := knownIn(version, kind, name)
			if k == nil || k.internal || op == ResizeDisk {
				errs[name] = notInSchema
				continue
			}
			r.rule = k.rule
		}
		if text, ok := r.check(name, value); !ok {
			errs[name] = text
		}
		if r.requires != "" && !hasParam(params, r.requires) {
			errs[r.requires] = missingProperty(version, name)
		}
	}
	for name, r := range own {
		if r.required && !hasParam(params, name) {
			errs[name] = "property is missing and it is not optional"
		}
	}
	if len(errs) > 0 {
		return paramError(errs)
	}
	return nil
}

func hasParam(params map[string]string, name string) bool {
	_, ok := params[name]
	return ok
}

// missingProperty is PVE's text for a parameter that name cannot do without.
func missingProperty(version int, name string) string {
	if version >= 9 {
		return "missing property required by '" + name + "'"
	}
	return "missing property - '" + name + "' requires this property"
}

// param is the schema of a parameter that is no config key.
type param struct {
	rule
	required bool
	requires string
}

var (
	listParams = map[string]param{
		"delete": {rule: formatted(listOf(configID))},
		"revert": {rule: formatted(listOf(configID))},
		"digest": {rule: text().upTo(40)},
	}
	qemuPutParams = extend(listParams, map[string]param{
		"skiplock": {rule: boolean()},
		"force":    {rule: boolean(), requires: "delete"},
	})
	qemuPostParams = extend(qemuPutParams, map[string]param{
		"background_delay":       {rule: integer(1, 30)},
		"import-working-storage": {rule: formatted(storageID)},
	})
)

func extend(a, b map[string]param) map[string]param {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

func ownParams(kind guest.Kind, op Op) map[string]param {
	switch {
	case op == ResizeDisk:
		return resizeParams(kind)
	case op == Create && kind == guest.QEMU:
		return qemuCreateParams
	case op == Create:
		return lxcCreateParams
	case op == PostConfig:
		return qemuPostParams
	case kind == guest.QEMU:
		return qemuPutParams
	}
	return listParams
}

// need refuses a caller without a privilege on a path.
func (c Caller) need(path, priv string) *Error {
	if c.allowed(path, priv) {
		return nil
	}
	return denied(path + ", " + priv)
}

// needAny refuses a caller with none of the privileges.
func (c Caller) needAny(path string, privs ...string) *Error {
	names := ""
	for _, p := range privs {
		if c.allowed(path, p) {
			return nil
		}
		names += "|" + p
	}
	return denied(path + ", " + names[1:])
}

// codeError is how an error of the code that is not one of a parameter's
// schema is answered.
func codeError(err error) *Error {
	var f *formatError
	if errors.As(err, &f) {
		return &Error{Status: 500, Message: "format error", Errors: maps.Clone(f.errs)}
	}
	return died("%s", err)
}

// sortedKeys is a map's keys in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
