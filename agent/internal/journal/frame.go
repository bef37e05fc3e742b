// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"
)

const (
	// Version is the format that is written, and the newest that is read.
	Version = 1
	// maxBody bounds a line, and so what a reader believes a length to be.
	maxBody = 32 << 20

	prefixLen  = 8 + 1 + 8 + 1
	timeLayout = "2006-01-02T15:04:05.000000000Z"
)

// Entry is one payload as it was recorded.
type Entry struct {
	// Seq counts from 1 without gaps.
	Seq uint64
	// Time is the host's clock at the write, UTC. It may step back where the clock did.
	Time time.Time
	// Payload is compact JSON. It is valid until the function it was handed to returns.
	Payload json.RawMessage
}

// Head is a point of the chain: everything up to Seq is fixed by Hash. The zero Head is before anything.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// Frame is how and where an entry is stored.
type Frame struct {
	Batch       uint64
	Part, Parts int
	// Digest is the SHA-256 of the entry alone, Prev the chain before it, Hash the chain with it; all hex.
	Digest, Prev, Hash string
	File               string
	Offset             int64
	// Line is the stored line without its newline, valid as long as the Payload.
	Line []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// cursor is a point of the chain as a writer or reader needs it: the last entry, its batch, the hash up to it.
type cursor struct {
	seq, batch uint64
	hash       string
}

func (c cursor) head() Head {
	if c.seq == 0 {
		return Head{}
	}
	return Head{Seq: c.seq, Hash: c.hash}
}

// genesis is the hash before the first entry. It binds the chain to the journal and its host.
func genesis(id, host string) string {
	return sum([]byte(fmt.Sprintf("felhom journal\n%d\n%s\n%s\n", Version, id, host)))
}

func sum(data []byte) string {
	digest := sha256.Sum256(data)
	return hex.EncodeToString(digest[:])
}

// link continues a chain by the digest of one more entry.
func link(prev, digest string) string {
	var joined [128]byte
	copy(joined[:], prev)
	copy(joined[64:], digest)
	return sum(joined[:])
}

// appendLine frames the body that follows start in buf, where prefixLen bytes were left free for the prefix.
func appendLine(buf []byte, start int) []byte {
	body := buf[start+prefixLen:]
	putHex(buf[start:], uint32(len(body)))
	putHex(buf[start+9:], crc32.Checksum(body, castagnoli))
	buf[start+8], buf[start+17] = ' ', ' '
	return append(buf, '\n')
}

func putHex(dst []byte, v uint32) {
	const digits = "0123456789abcdef"
	for i := 7; i >= 0; i-- {
		dst[i] = digits[v&15]
		v >>= 4
	}
}

var (
	errIncomplete = errors.New("the line is incomplete")
	errPrefix     = errors.New("no length and checksum")
	errLength     = errors.New("the length does not fit the line")
	errChecksum   = errors.New("the checksum does not fit the content")
	errForm       = errors.New("the line is not in the form of an entry")
)

// cutLine takes the framed line at the start of data: its body and how many bytes it takes with its newline.
func cutLine(data []byte) (body []byte, n int, err error) {
	if len(data) < prefixLen {
		return nil, 0, errIncomplete
	}
	size, ok1 := getHex(data[:8])
	crc, ok2 := getHex(data[9:17])
	if !ok1 || !ok2 || data[8] != ' ' || data[17] != ' ' {
		return nil, 0, errPrefix
	}
	n = prefixLen + int(size) + 1
	switch {
	case size > maxBody:
		return nil, 0, errLength
	case n > len(data):
		return nil, 0, errIncomplete
	case data[n-1] != '\n':
		return nil, 0, errLength
	}
	body = data[prefixLen : n-1]
	if crc32.Checksum(body, castagnoli) != crc || bytes.IndexByte(body, '\n') >= 0 {
		return nil, 0, errChecksum
	}
	return body, n, nil
}

func getHex(src []byte) (v uint32, ok bool) {
	for _, c := range src {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// appendEntry appends the framed line of one entry and moves the cursor over it. The cursor's batch is the entry's.
func appendEntry(buf []byte, at *cursor, part, parts int, when time.Time, payload []byte) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, prefixLen)...)
	buf = append(buf, `{"seq":`...)
	buf = strconv.AppendUint(buf, at.seq+1, 10)
	buf = append(buf, `,"batch":`...)
	buf = strconv.AppendUint(buf, at.batch, 10)
	buf = append(buf, `,"part":"`...)
	buf = strconv.AppendInt(buf, int64(part), 10)
	buf = append(buf, '/')
	buf = strconv.AppendInt(buf, int64(parts), 10)
	buf = append(buf, `","time":"`...)
	buf = when.UTC().AppendFormat(buf, timeLayout)
	buf = append(buf, `","data":`...)
	buf = append(buf, payload...)
	at.seq++
	at.hash = link(at.hash, sum(buf[start+prefixLen:]))
	buf = append(buf, `,"hash":"`...)
	buf = append(buf, at.hash...)
	buf = append(buf, `"}`...)
	return appendLine(buf, start)
}

const hashFieldLen = len(`,"hash":"`) + 64 + len(`"}`)

// parseEntry reads the body of an entry. It accepts exactly what appendEntry writes. Prev and the place are not in the
// body, and whether the hash is right shows with the entry before only.
func parseEntry(body []byte) (e Entry, f Frame, err error) {
	p := parser{rest: body}
	p.literal(`{"seq":`)
	e.Seq = p.number()
	p.literal(`,"batch":`)
	f.Batch = p.number()
	p.literal(`,"part":"`)
	f.Part = int(p.number())
	p.literal(`/`)
	f.Parts = int(p.number())
	p.literal(`","time":"`)
	e.Time = p.time()
	p.literal(`","data":`)
	if len(p.rest) < hashFieldLen {
		return e, f, errForm
	}
	cut := len(body) - hashFieldLen
	e.Payload = json.RawMessage(p.rest[:len(p.rest)-hashFieldLen])
	p.rest = body[cut:]
	p.literal(`,"hash":"`)
	f.Hash = p.hash()
	p.literal(`"}`)
	if p.bad || len(p.rest) > 0 || f.Part < 1 || f.Part > f.Parts || !json.Valid(e.Payload) {
		return e, f, errForm
	}
	f.Digest = sum(body[:cut])
	return e, f, nil
}

// parser takes fixed pieces off the front of a body. After the first that does not fit it is bad and takes no more.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) literal(want string) {
	if p.bad || len(p.rest) < len(want) || string(p.rest[:len(want)]) != want {
		p.bad = true
		return
	}
	p.rest = p.rest[len(want):]
}

// number takes decimal digits without leading zeros, at most 18 of them.
func (p *parser) number() (v uint64) {
	i := 0
	for i < len(p.rest) && p.rest[i] >= '0' && p.rest[i] <= '9' {
		v = v*10 + uint64(p.rest[i]-'0')
		i++
		if i > 18 {
			p.bad = true
			return 0
		}
	}
	if i == 0 || i > 1 && p.rest[0] == '0' {
		p.bad = true
	}
	p.rest = p.rest[i:]
	return v
}

func (p *parser) time() time.Time {
	if p.bad || len(p.rest) < len(timeLayout) {
		p.bad = true
		return time.Time{}
	}
	text := string(p.rest[:len(timeLayout)])
	t, err := time.Parse(timeLayout, text)
	if err != nil || t.Format(timeLayout) != text {
		p.bad = true
	}
	p.rest = p.rest[len(timeLayout):]
	return t
}

func (p *parser) hash() string {
	if p.bad || len(p.rest) < 64 || !isHash(p.rest[:64]) {
		p.bad = true
		return ""
	}
	h := string(p.rest[:64])
	p.rest = p.rest[64:]
	return h
}

func isHash(src []byte) bool {
	for _, c := range src {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(src) == 64
}
