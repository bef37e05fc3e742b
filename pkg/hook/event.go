// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package hook carries a guest's lifecycle event from a Proxmox VE hookscript
// to the agent: the event itself, the spool file in which it is safe from the
// agent's end, and the client that tells of it without waiting, or posts it
// within a budget.
//
// It guarantees that telling waits for nothing, that posting never takes longer
// than its budget, that an acknowledged event is in the agent's journal, and that each event carries
// an id by which it counts once (promise P7). It imports only the standard
// library and package guest/id, and of the former nothing that costs a short
// process more than it is worth (net, net/http, fmt, encoding/json).
package hook

import (
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"github.com/felhom/felhom-agent/pkg/guest/id"
)

// ExitVeto is the one exit status of the hook helper that the snippet passes
// on to PVE, where it stops a pre-start from going on. Every other status
// becomes 0. The helper gives it only for a pre-start of a guest that is gated.
const ExitVeto = 117

// MaxSize bounds the JSON of an event, in bytes.
const MaxSize = 1024

// Event is one run of a hookscript.
type Event struct {
	// ID is unique to the run: boot id, monotonic time and pid, in the form
	// BOOT.TIME.PID with TIME padded, so that the ids of one boot sort by time.
	// It is also the name of the spool file.
	ID    string   `json:"id"`
	VMID  id.VMID  `json:"vmid"`
	Phase id.Phase `json:"phase"`
	// Time is the wall clock in nanoseconds since the epoch when the hook ran.
	Time int64 `json:"time"`
	// Boot is the kernel's boot id of the host the hook ran on.
	Boot string `json:"boot"`
	// MigratedFrom is PVE_MIGRATED_FROM, the source node of an incoming
	// migration; empty otherwise.
	MigratedFrom string `json:"migrated_from,omitempty"`
}

// unknownBoot stands for a boot id that could not be read. The monotonic time
// and the pid still keep ids of one boot apart.
const unknownBoot = "00000000-0000-0000-0000-000000000000"

// New is the event of this process, now. It does not check its arguments;
// [Event.Validate] does.
func New(vmid id.VMID, phase id.Phase, migratedFrom string) Event {
	boot := bootID("/proc/sys/kernel/random/boot_id")
	return Event{
		ID:           boot + "." + pad(monotonic(), 20) + "." + strconv.Itoa(syscall.Getpid()),
		VMID:         vmid,
		Phase:        phase,
		Time:         time.Now().UnixNano(),
		Boot:         boot,
		MigratedFrom: migratedFrom,
	}
}

// Validate reports the first field that is not as this package writes it. The
// error is an [ErrInvalid].
func (e Event) Validate() error {
	switch {
	case !validID(e.ID):
		return invalid("id", "want 1 to 128 of A-Z a-z 0-9 . _ -, not beginning with a dot")
	case e.VMID < id.MinVMID || e.VMID > id.MaxVMID:
		return invalid("vmid", "want a number from "+id.MinVMID.String()+" to "+id.MaxVMID.String())
	case !e.Phase.Valid():
		return invalid("phase", "want pre-start, post-start, pre-stop or post-stop")
	case e.Time <= 0:
		return invalid("time", "want nanoseconds since the epoch")
	case !validBoot(e.Boot):
		return invalid("boot", "want a boot id (36 of 0-9 a-f -)")
	case e.MigratedFrom != "" && !ValidNode(e.MigratedFrom):
		return invalid("migrated_from", "want a node name")
	}
	return nil
}

// AppendJSON appends e as encoding/json writes it. It needs no escapes, as no
// field of a valid event holds a character that has one.
func (e Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, e.ID...)
	b = append(b, `","vmid":`...)
	b = strconv.AppendInt(b, int64(e.VMID), 10)
	b = append(b, `,"phase":"`...)
	b = append(b, e.Phase...)
	b = append(b, `","time":`...)
	b = strconv.AppendInt(b, e.Time, 10)
	b = append(b, `,"boot":"`...)
	b = append(b, e.Boot...)
	if e.MigratedFrom != "" {
		b = append(b, `","migrated_from":"`...)
		b = append(b, e.MigratedFrom...)
	}
	return append(b, `"}`...)
}

// ValidNode reports whether s can be the name of a PVE node.
func ValidNode(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return only(s, func(c byte) bool { return alphanumeric(c) || c == '-' })
}

func validID(s string) bool {
	return len(s) >= 1 && len(s) <= 128 && s[0] != '.' &&
		only(s, func(c byte) bool { return alphanumeric(c) || c == '.' || c == '_' || c == '-' })
}

func validBoot(s string) bool {
	return len(s) == len(unknownBoot) &&
		only(s, func(c byte) bool { return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c == '-' })
}

func only(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func pad(n int64, width int) string {
	s := strconv.FormatInt(n, 10)
	const zeros = "00000000000000000000"
	return zeros[:max(0, width-len(s))] + s
}

func bootID(path string) string {
	var buf [64]byte
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return unknownBoot
	}
	defer syscall.Close(fd)
	n, err := syscall.Read(fd, buf[:])
	if err != nil || n < len(unknownBoot) || !validBoot(string(buf[:len(unknownBoot)])) {
		return unknownBoot
	}
	return string(buf[:len(unknownBoot)])
}

// monotonic is CLOCK_MONOTONIC in nanoseconds: package time shows it only as
// a difference, and the id needs a value that another process can compare.
func monotonic() int64 {
	const clockMonotonic = 1
	var ts syscall.Timespec
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return time.Now().UnixNano()
	}
	return ts.Nano()
}
