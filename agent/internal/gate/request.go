// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/felhom/felhom-agent/pkg/guest"
)

// Namespaces of signatures (ssh-keygen -Y sign -n ...).
const (
	ApprovalNamespace = "felhom-approval-v1"
	DesiredNamespace  = "felhom-desired-v1"
)

const (
	requestHeader = "felhom approval request v1"
	maxEffects    = 400
)

// Head is a point of the journal's hash chain.
type Head struct {
	Seq  uint64
	Hash string // 64 hexadecimal digits
}

// Request is what an operator is asked to sign: one operation on one guest of
// one host. Texts are printable ASCII; see [Plain].
type Request struct {
	OpID   string // the op's id in the journal
	Asker  string // who wants it: a principal, or what asked (reconciler)
	Action string // action kind
	Class  guest.Class
	Host   string
	// Guest is zero for an op that is not about a guest; then Name and
	// Incarnation are empty.
	Guest       guest.ID
	Name        string // of the guest, for the reader; may be empty
	Incarnation string
	PlanHash    string // SHA-256, 64 hexadecimal digits
	Journal     Head   // of the journal when the request was made
	Nonce       string // see NewNonce
	// NotBefore and NotAfter bound the execution, whole seconds. For an
	// action in two phases they bound the first.
	NotBefore, NotAfter time.Time
	// DeleteNotBefore and DeleteNotAfter bound the second phase of a destroy
	// (quarantine first). Both or none.
	DeleteNotBefore, DeleteNotAfter time.Time
	// Effects say what will be gone or different, one a line, at least one.
	Effects []string
}

// NewNonce returns 128 random bits, as hexadecimal digits.
func NewNonce() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, see crypto/rand
	return hex.EncodeToString(b[:])
}

var requestFields = []field{
	{key: "op"},
	{key: "asker"},
	{key: "action"},
	{key: "class"},
	{key: "host"},
	{key: "guest"},
	{key: "name"},
	{key: "incarnation"},
	{key: "plan"},
	{key: "journal"},
	{key: "nonce"},
	{key: "not-before"},
	{key: "not-after"},
	{key: "delete-not-before", optional: true},
	{key: "delete-not-after", optional: true},
	{key: "effect", many: true},
}

// Text is the request as it is shown and signed. It fails if a value cannot be
// said in a text, or would read back as another.
func (r *Request) Text() ([]byte, error) {
	text := r.print()
	if _, err := ParseRequest(text); err != nil {
		return nil, err
	}
	for _, t := range []time.Time{r.NotBefore, r.NotAfter, r.DeleteNotBefore, r.DeleteNotAfter} {
		if !t.Equal(t.Truncate(time.Second)) {
			return nil, refuse(ErrTextValue, "%s is not a whole second", t.Format(time.RFC3339Nano))
		}
	}
	return text, nil
}

func (r *Request) print() []byte {
	p := newPrinter(requestHeader)
	p.add("op", r.OpID)
	p.add("asker", r.Asker)
	p.add("action", r.Action)
	p.add("class", string(r.Class))
	p.add("host", r.Host)
	p.add("guest", printGuest(r.Guest))
	p.add("name", orDash(r.Name))
	p.add("incarnation", orDash(r.Incarnation))
	p.add("plan", r.PlanHash)
	p.add("journal", fmt.Sprintf("%d %s", r.Journal.Seq, r.Journal.Hash))
	p.add("nonce", r.Nonce)
	p.addTime("not-before", r.NotBefore)
	p.addTime("not-after", r.NotAfter)
	p.addTime("delete-not-before", r.DeleteNotBefore)
	p.addTime("delete-not-after", r.DeleteNotAfter)
	for _, e := range r.Effects {
		p.add("effect", e)
	}
	return []byte(p.String())
}

func printGuest(id guest.ID) string {
	if id == (guest.ID{}) {
		return dash
	}
	return id.String()
}

// ParseRequest reads the exact form that Text writes, and nothing else.
func ParseRequest(text []byte) (*Request, error) {
	f, err := readForm(text, maxText, requestHeader, requestFields)
	if err != nil {
		return nil, err
	}
	r := &Request{
		OpID: f.token("op"), Asker: f.token("asker"), Action: f.token("action"), Class: f.class("class"), Host: f.token("host"),
		Guest: f.guest("guest"), Name: fromDash(f.one("name")),
		PlanHash: f.hex("plan", f.one("plan"), 64), Journal: f.head("journal"), Nonce: f.hex("nonce", f.one("nonce"), 32),
		Effects: f.all("effect"),
	}
	r.Incarnation = fromDash(f.token("incarnation"))
	r.NotBefore, r.NotAfter = f.time("not-before"), f.time("not-after")
	r.DeleteNotBefore, r.DeleteNotAfter = f.time("delete-not-before"), f.time("delete-not-after")
	r.check(f)
	if f.err != nil {
		return nil, f.err
	}
	if !bytes.Equal(r.print(), text) {
		return nil, refuse(ErrTextValue, "it does not print back as it was")
	}
	return r, nil
}

// check refuses values that are well formed each and make no sense together.
func (r *Request) check(f *form) {
	if (r.Guest == guest.ID{}) != (r.Incarnation == "") {
		f.bad("incarnation", "a guest has one, and only a guest")
	}
	if r.DeleteNotBefore.IsZero() != r.DeleteNotAfter.IsZero() {
		f.bad("delete-not-after", "delete-not-before and delete-not-after go together")
	}
	if len(r.Effects) > maxEffects {
		f.bad("effect", "%d lines, at most %d", len(r.Effects), maxEffects)
	}
}

// Hash is the SHA-256 of a signed text, as hexadecimal digits: its name in the
// journal.
func Hash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func (f *form) guest(key string) guest.ID {
	v := f.one(key)
	if v == dash {
		return guest.ID{}
	}
	id, err := guest.ParseID(v)
	if err != nil {
		f.bad(key, "%q is not a guest", v)
	}
	return id
}

func (f *form) class(key string) guest.Class {
	c := guest.Class(f.one(key))
	switch c {
	case guest.Benign, guest.Additive, guest.Irreversible:
		return c
	}
	f.bad(key, "%q is not a class that can be approved", c)
	return c
}

func (f *form) head(key string) Head {
	v := f.one(key)
	if len(v) < 66 || v[len(v)-65] != ' ' {
		f.bad(key, "%q is not a sequence number and a hash", v)
		return Head{}
	}
	cut := len(v) - 65
	return Head{Seq: f.number(key, v[:cut]), Hash: f.hex(key, v[cut+1:], 64)}
}
