// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/fsys"
)

// Range says what an export holds. Entries From to To are exported with their content. For those from First to From and
// from To to Last only the digest is, which links the range to heads noted before and after it without telling what the
// entries say. A zero First is From, a zero To or Last is the head.
type Range struct{ From, To, First, Last uint64 }

// An export is lines of text: this header, then one line per entry from First to Last, either framed as in a segment or
// a link.
type exportHeader struct {
	Version int    `json:"felhom-export"`
	ID      string `json:"id"`
	Host    string `json:"host"`
	First   uint64 `json:"first"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Last    uint64 `json:"last"`
	// Prev is the chain before First, Hash the chain at Last.
	Prev string `json:"prev"`
	Hash string `json:"hash"`
	Time string `json:"time"`
}

// exportLink stands for an entry whose content is not exported.
type exportLink struct {
	Seq    uint64 `json:"seq"`
	Digest string `json:"digest"`
}

// Export writes a part of the journal in a form that VerifyExport can prove without the journal. It reads the journal
// twice and may run beside the agent.
func Export(fsystem fsys.FS, dir string, r Range, w io.Writer) error {
	report, err := Check(fsystem, dir)
	if err != nil {
		return err
	}
	h, err := r.header(fsystem, dir, report)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	out := bufio.NewWriter(w)
	_, err = out.Write(headerLine(h))
	rerr := Read(fsystem, dir, h.First, func(e Entry, f Frame) bool {
		if err == nil && e.Seq <= h.Last {
			err = exportEntry(out, h, e, f)
		}
		return err == nil && e.Seq < h.Last
	})
	return errors.Join(err, rerr, out.Flush())
}

func exportEntry(out io.Writer, h exportHeader, e Entry, f Frame) error {
	var line []byte
	if e.Seq >= h.From && e.Seq <= h.To {
		line = append(append(line, f.Line...), '\n')
	} else {
		line = headerLine(exportLink{e.Seq, f.Digest})
	}
	_, err := out.Write(line)
	return err
}

// header fills in the range and finds the hashes at its ends.
func (r Range) header(fsystem fsys.FS, dir string, report CheckReport) (exportHeader, error) {
	head := report.Head.Seq
	h := exportHeader{
		Version: Version, ID: report.ID, Host: report.Host, First: r.First, From: r.From, To: r.To,
		Last: r.Last, Time: time.Now().UTC().Format(timeLayout),
	}
	if h.First == 0 {
		h.First = h.From
	}
	if h.To == 0 {
		h.To = head
	}
	if h.Last == 0 {
		h.Last = head
	}
	if h.First < 1 || h.First > h.From || h.From > h.To || h.To > h.Last || h.Last > head {
		return h, fmt.Errorf("entries %d to %d within %d to %d: no such range, the journal has 1 to %d",
			h.From, h.To, h.First, h.Last, head)
	}
	err := Read(fsystem, dir, h.First, func(e Entry, f Frame) bool {
		if e.Seq == h.First {
			h.Prev = f.Prev
		}
		h.Hash = f.Hash
		return e.Seq < h.Last
	})
	return h, err
}

// Verdict is what an export proves, and what it cannot.
type Verdict struct {
	// ID and Host are the journal's. Entries From to To are there, the chain is from First to Last, where it is at Head.
	ID    string `json:"id"`
	Host  string `json:"host"`
	From  uint64 `json:"from"`
	To    uint64 `json:"to"`
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	Head  Head   `json:"head"`
	// Confirmed are the known heads that the chain goes through, Outside those that it says nothing of.
	Confirmed []Head `json:"confirmed"`
	Outside   []Head `json:"outside"`
	// Proves and Unknown say in words what follows, and what does not.
	Proves  []string `json:"proves"`
	Unknown []string `json:"unknown"`
}

// ErrForged: an export contradicts itself or a head noted elsewhere.
var ErrForged = errors.New("export is not genuine")

// VerifyExport recomputes the chain of an export and holds it against heads that were noted elsewhere (the hub, the
// system's journal, an approval request). yield, which may be nil, gets the entries. The error is ErrForged if anything
// does not fit, and then nothing of the export is to be believed.
func VerifyExport(in io.Reader, known []Head, yield func(Entry)) (Verdict, error) {
	v := verifier{in: bufio.NewReader(in), known: known, yield: yield}
	h, err := v.header()
	if err != nil {
		return Verdict{}, err
	}
	v.verdict = Verdict{ID: h.ID, Host: h.Host, From: h.From, To: h.To, First: h.First, Last: h.Last}
	v.at = cursor{seq: h.First - 1, hash: h.Prev}
	if err := v.confirm(); err != nil {
		return Verdict{}, err
	}
	for v.at.seq < h.Last {
		if err := v.next(h); err != nil {
			return Verdict{}, err
		}
	}
	if _, err := v.in.ReadByte(); err != io.EOF || v.at.hash != h.Hash {
		return Verdict{}, fmt.Errorf("%w: it does not end with entry %d and its hash", ErrForged, h.Last)
	}
	v.conclude(h)
	return v.verdict, nil
}

type verifier struct {
	in      *bufio.Reader
	known   []Head
	yield   func(Entry)
	at      cursor
	verdict Verdict
}

// line reads one framed line.
func (v *verifier) line() ([]byte, error) {
	prefix, err := v.in.Peek(prefixLen)
	if err != nil {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrForged, err)
	}
	size, ok := getHex(prefix[:8])
	if !ok || size > maxBody {
		return nil, fmt.Errorf("%w: %w", ErrForged, errPrefix)
	}
	data := make([]byte, prefixLen+int(size)+1)
	if _, err := io.ReadFull(v.in, data); err != nil {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrForged, err)
	}
	body, _, err := cutLine(data)
	if err != nil {
		return nil, fmt.Errorf("%w: after entry %d: %w", ErrForged, v.at.seq, err)
	}
	return body, nil
}

func (v *verifier) header() (h exportHeader, err error) {
	body, err := v.line()
	if err != nil {
		return h, err
	}
	if _, err := takeHeader(headerBody(body), "felhom-export", &h); err != nil {
		return h, fmt.Errorf("not an export: %w", err)
	}
	if h.First < 1 || h.First > h.From || h.From > h.To || h.To > h.Last ||
		h.First == 1 && h.Prev != genesis(h.ID, h.Host) || !isHash([]byte(h.Prev)) {
		return h, fmt.Errorf("%w: its header contradicts itself", ErrForged)
	}
	return h, nil
}

// headerBody frames a body again.
func headerBody(body []byte) []byte {
	return appendLine(append(make([]byte, prefixLen), body...), 0)
}

// next takes the line of the next entry.
func (v *verifier) next(h exportHeader) error {
	body, err := v.line()
	if err != nil {
		return err
	}
	seq, digest, hash := uint64(0), "", ""
	if want := v.at.seq + 1; want >= h.From && want <= h.To {
		e, f, err := parseEntry(body)
		if err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrForged, want, err)
		}
		seq, digest, hash = e.Seq, f.Digest, f.Hash
		if v.yield != nil && hash == link(v.at.hash, digest) {
			v.yield(e)
		}
	} else {
		var l exportLink
		if err := json.Unmarshal(body, &l); err != nil {
			return fmt.Errorf("%w: entry %d: %w", ErrForged, want, err)
		}
		seq, digest = l.Seq, l.Digest
	}
	chained := link(v.at.hash, digest)
	if seq != v.at.seq+1 || !isHash([]byte(digest)) || hash != "" && hash != chained {
		return fmt.Errorf("%w: the chain of hashes breaks at entry %d", ErrForged, v.at.seq+1)
	}
	v.at.seq, v.at.hash = seq, chained
	return v.confirm()
}

// confirm holds the point reached against the known heads.
func (v *verifier) confirm() error {
	for _, k := range v.known {
		switch {
		case k.Seq != v.at.seq || k.Seq == 0:
		case k.Hash != v.at.hash:
			return fmt.Errorf("%w: entry %d has hash %s, elsewhere %s was noted", ErrForged, k.Seq, v.at.hash, k.Hash)
		default:
			v.verdict.Confirmed = append(v.verdict.Confirmed, k)
		}
	}
	return nil
}

// outside names the known heads of which the export says nothing. One after its end may be all that is left of records
// that were cut off.
func (v *verifier) outside(h exportHeader, say func(list *[]string, format string, args ...any)) {
	for _, k := range v.known {
		switch {
		case k.Seq > h.Last:
			say(&v.verdict.Unknown, "that it is the chain whose hash at entry %d was noted elsewhere: it ends before; if the journal has no entry %d, records were removed", k.Seq, k.Seq)
		case k.Seq < h.First-1 || k.Seq == 0:
			say(&v.verdict.Unknown, "that it is the chain whose hash at entry %d was noted elsewhere: it begins after", k.Seq)
		default:
			continue
		}
		v.verdict.Outside = append(v.verdict.Outside, k)
	}
}

// conclude says what the export proves.
func (v *verifier) conclude(h exportHeader) {
	d := &v.verdict
	d.Head = Head{Seq: h.Last, Hash: h.Hash}
	say := func(list *[]string, format string, args ...any) { *list = append(*list, fmt.Sprintf(format, args...)) }
	say(&d.Proves, "entries %d to %d are, without gap or change, those of the chain with hash %s at entry %d", h.From, h.To, h.Hash, h.Last)
	if h.First == 1 {
		say(&d.Proves, "that chain begins with entry 1 of journal %s of host %q", h.ID, h.Host)
	}
	last := uint64(0)
	for _, k := range d.Confirmed {
		last = max(last, k.Seq)
		say(&d.Proves, "it is the chain whose hash at entry %d was noted elsewhere", k.Seq)
	}
	v.outside(h, say)
	switch {
	case last == 0:
		say(&d.Unknown, "that the agent wrote this chain: it holds no head that was noted elsewhere, and whoever can write the journal can write a whole chain")
	case last < h.To:
		say(&d.Unknown, "that entries %d to %d are as they were written: they are after the last head that was noted elsewhere", max(last+1, h.From), h.To)
	}
	if h.First > 1 {
		say(&d.Unknown, "what was recorded before entry %d", h.First)
	}
	say(&d.Unknown, "that nothing was recorded after entry %d", h.Last)
	say(&d.Unknown, "that what the entries say is true, or when it was: the times are the host's clock")
}
