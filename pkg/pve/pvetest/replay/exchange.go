// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// exchange is one recorded request with its answer.
type exchange struct {
	ID      string            `json:"id"`
	Method  string            `json:"m"`
	URI     string            `json:"uri"`
	Header  map[string]string `json:"h"`
	Body    string            `json:"b"`
	Length  int               `json:"cl"` // of the body as announced, if the body was not kept whole
	Status  int               `json:"st"`
	Reason  string            `json:"why"`
	Time    int64             `json:"t"`  // Date of the answer
	Millis  float64           `json:"ms"` // from request to answer
	RHeader map[string]string `json:"rh"`
	RBody   string            `json:"r"`
	RLength int               `json:"rl"`
	Conf    string            `json:"conf"` // the guest's config file afterwards
	Note    string            `json:"note"`

	at time.Time // when the answer is due
}

// readExchanges reads a recording.
func readExchanges(r io.Reader) ([]exchange, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	sc := bufio.NewScanner(zr)
	sc.Buffer(nil, 4<<20)
	var out []exchange
	for sc.Scan() {
		var e exchange
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("recording line %d: %w", len(out)+1, err)
		}
		out = append(out, e)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	schedule(out)
	return out, nil
}

// schedule gives the answers their instants: the recordings know the second
// of each and how long it took. The recorder waited for nothing but answers,
// so within a second one request follows the other.
func schedule(ex []exchange) {
	var last time.Time
	for i := range ex {
		at := time.Unix(ex[i].Time, 0).Add(200 * time.Millisecond)
		next := last.Add(time.Duration(ex[i].Millis*float64(time.Millisecond)) + 3*time.Millisecond)
		if next.After(at) && next.Unix() <= ex[i].Time {
			at = next
		}
		ex[i].at, last = at, at
	}
}
