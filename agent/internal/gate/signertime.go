// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"strings"
	"time"
)

// parseSignerTime reads OpenSSH's YYYYMMDD[HHMM[SS]], with Z or UTC at the end
// for UTC and without for local time. A local time can mean two moments:
// OpenSSH reads it as standard time even while summer time holds, people mean
// the wall clock. Both are returned, the earlier first, so that each bound can
// take the stricter.
func parseSignerTime(s string, loc *time.Location) (early, late time.Time, ok bool) {
	body, utc := cutUTC(s)
	if utc {
		loc = time.UTC
	}
	forms := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}
	form, known := forms[len(body)]
	if !known || strings.Trim(body, "0123456789") != "" {
		return early, late, false
	}
	t, err := time.ParseInLocation(form, body, loc)
	if err != nil || t.Unix() <= 0 {
		return early, late, false
	}
	other := asStandard(t)
	if other.Before(t) {
		return other, t, true
	}
	return t, other, true
}

func cutUTC(s string) (string, bool) {
	up := strings.ToUpper(s)
	for _, suffix := range []string{"Z", "UTC"} {
		if strings.HasSuffix(up, suffix) {
			return s[:len(s)-len(suffix)], true
		}
	}
	return s, false
}

// asStandard is the moment that has t's wall clock reading in the standard
// time before the summer time that holds at t; t itself outside summer time.
func asStandard(t time.Time) time.Time {
	start, _ := t.ZoneBounds()
	if !t.IsDST() || start.IsZero() {
		return t
	}
	_, summer := t.Zone()
	_, standard := start.Add(-time.Second).Zone()
	return t.Add(time.Duration(summer-standard) * time.Second)
}
