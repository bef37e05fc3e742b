// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import "strings"

// nearest returns the known name that s was probably meant to be, "" if none
// is close: at most one change in three letters.
func nearest(s string, known []string) string {
	if len(s) > maxKey {
		return ""
	}
	s = strings.ToLower(strings.ReplaceAll(s, "-", "_"))
	best, most := "", 1+max(len(s)/3, 1)
	for _, k := range known {
		if len(k)-len(s) >= most || len(s)-len(k) >= most {
			continue
		}
		if d := distance(s, strings.ToLower(k)); d < most {
			best, most = k, d
		}
	}
	return best
}

// distance counts the letters to insert, remove, replace, or swap with the one
// beside them, to get from a to b.
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
