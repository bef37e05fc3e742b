// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Admin returns the handler of the administration socket: the operator's
// commands, faults, and the record of mutations, in JSON. Whoever reaches it
// is root; serve it on a socket only its owner can open.
//
//	GET    /record                         the mutations
//	GET    /guests?kind=lxc                list
//	GET    /guests/{kind}/{vmid}/config    config (?current=1)
//	POST   /guests/{kind}/{vmid}/{action}  start stop shutdown reboot set unlock
//	GET    /faults   POST /faults          armed faults; arm one (a Fault)
//	DELETE /faults                         disarm all
//	POST   /guests/{kind}/{vmid}/{what}    poweroff crash reboot-inside lock replace remove reset-reads
//	                                       kill-monitor move ({"node":"pve2"}) ha ({"state":"started"})
//	GET    /pvesh?path=/nodes              what pvesh get prints, as root@pam
//	POST   /pveum                          pveum ({"args":["user","add","a@pve"]})
//	POST   /node/{what}                    quorum ({"ok":false}), reset-counters, kill-tasks, power-loss,
//	                                       deny ({"privs":["VM.PowerMgmt"]}), startall, stopall
func (s *Sim) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /record", func(w http.ResponseWriter, _ *http.Request) { adminJSON(w, s.Record()) })
	mux.HandleFunc("GET /guests", s.adminList)
	mux.HandleFunc("GET /guests/{kind}/{vmid}/config", s.adminConfig)
	mux.HandleFunc("POST /guests/{kind}/{vmid}/{action}", s.adminGuest)
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { adminJSON(w, s.Faults()) })
	mux.HandleFunc("POST /faults", s.adminInject)
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		s.ClearFaults()
		adminJSON(w, struct{}{})
	})
	mux.HandleFunc("POST /node/{what}", s.adminNode)
	mux.HandleFunc("GET /pvesh", s.adminPvesh)
	mux.HandleFunc("POST /pveum", s.adminPveum)
	return mux
}

func adminJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(encode(v), '\n')) // a client that went away
}

func adminError(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write(append(encode(map[string]string{"error": Explain(err)}), '\n'))
}

// adminBody reads a JSON body strictly; an empty one leaves v as it is.
func adminBody(r *http.Request, v any) error {
	dec := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}

func (s *Sim) adminList(w http.ResponseWriter, r *http.Request) {
	out := []GuestStatus{}
	for _, kind := range []guest.Kind{guest.LXC, guest.QEMU} {
		if k := r.URL.Query().Get("kind"); k == "" || k == string(kind) {
			out = append(out, s.Operator(kind).List()...)
		}
	}
	adminJSON(w, out)
}

func adminTarget(r *http.Request) (guest.Kind, int, error) {
	kind := guest.Kind(r.PathValue("kind"))
	if !kind.Valid() {
		return "", 0, fmt.Errorf("kind %q is neither lxc nor qemu", kind)
	}
	vmid, err := guest.ParseVMID(r.PathValue("vmid"))
	return kind, int(vmid), err
}

func (s *Sim) adminConfig(w http.ResponseWriter, r *http.Request) {
	kind, vmid, err := adminTarget(r)
	if err != nil {
		adminError(w, err)
		return
	}
	cfg, err := s.Operator(kind).Config(vmid, r.URL.Query().Get("current") == "1")
	if err != nil {
		adminError(w, err)
		return
	}
	adminJSON(w, cfg)
}

// guestOrder is the body of an order about a guest.
type guestOrder struct {
	Timeout int               `json:"timeout"` // seconds
	Force   bool              `json:"force"`
	Params  map[string]string `json:"params"` // of set; "delete" removes keys
	Lock    string            `json:"lock"`
	Count   int               `json:"count"`
	Running bool              `json:"running"`
	Node    string            `json:"node"`  // of move
	State   string            `json:"state"` // of ha; "" takes the guest out
}

func (s *Sim) adminGuest(w http.ResponseWriter, r *http.Request) {
	kind, vmid, err := adminTarget(r)
	var o guestOrder
	if err == nil {
		err = adminBody(r, &o)
	}
	var log string
	if err == nil {
		log, err = s.order(r, kind, vmid, o)
	}
	if err != nil {
		adminError(w, err)
		return
	}
	adminJSON(w, map[string]string{"log": log})
}

func (s *Sim) order(r *http.Request, kind guest.Kind, vmid int, o guestOrder) (string, error) {
	op, ctx := s.Operator(kind), r.Context()
	switch action := r.PathValue("action"); action {
	case "start", "stop", "reboot":
		return op.Power(ctx, vmid, action)
	case "shutdown":
		return op.Shutdown(ctx, vmid, time.Duration(o.Timeout)*time.Second, o.Force)
	case "set":
		return "", op.Set(ctx, vmid, o.Params)
	case "unlock":
		return "", op.Unlock(vmid)
	case "poweroff":
		return "", s.Poweroff(vmid)
	case "crash":
		return "", s.Crash(vmid)
	case "reboot-inside":
		return "", s.RebootInside(vmid)
	case "lock":
		return "", s.SetLock(vmid, o.Lock)
	case "reset-reads":
		return "", s.ResetReads(vmid, o.Count)
	case "remove":
		return "", s.Remove(vmid)
	case "kill-monitor":
		return "", s.KillMonitor(vmid)
	case "move":
		return "", s.Move(vmid, o.Node)
	case "ha":
		return "", s.SetHA(vmid, o.State)
	case "replace":
		return "", s.Replace(GuestSpec{Kind: kind, VMID: vmid, Config: o.Params, Running: o.Running})
	default:
		return "", fmt.Errorf("no such action: %s", strconv.Quote(action))
	}
}

func (s *Sim) adminInject(w http.ResponseWriter, r *http.Request) {
	var f Fault
	err := adminBody(r, &f)
	var id int
	if err == nil {
		id, err = s.Inject(f)
	}
	if err != nil {
		adminError(w, err)
		return
	}
	adminJSON(w, map[string]int{"id": id})
}

func (s *Sim) adminNode(w http.ResponseWriter, r *http.Request) {
	var body struct {
		OK    bool     `json:"ok"`
		Privs []string `json:"privs"`
	}
	if err := adminBody(r, &body); err != nil {
		adminError(w, err)
		return
	}
	switch what := r.PathValue("what"); what {
	case "startall", "stopall":
		log, err := s.Bulk(r.Context(), what)
		if err != nil {
			adminError(w, err)
			return
		}
		adminJSON(w, map[string]string{"log": log})
		return
	case "quorum":
		s.SetQuorum(body.OK)
	case "reset-counters":
		s.ResetCounters()
	case "kill-tasks":
		s.KillTasks()
	case "power-loss":
		s.Crashed()
	case "deny":
		s.Deny(body.Privs...)
	default:
		adminError(w, fmt.Errorf("no such order: %q", what))
		return
	}
	adminJSON(w, struct{}{})
}
