// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"regexp"
	"strconv"
)

var sizeRE = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)([KMGT])?(?:iB)?$`)

// parseSize reads a size as PVE writes it: a number, then K, M, G or T.
func parseSize(s string) (int64, bool) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil || m[2] == "" && len(m[0]) != len(m[1]) {
		return 0, false
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	return int64(f * float64(unitBytes(m[2]))), true
}

func unitBytes(unit string) int64 {
	switch unit {
	case "K":
		return 1 << 10
	case "M":
		return 1 << 20
	case "G":
		return 1 << 30
	case "T":
		return 1 << 40
	}
	return 1
}

// formatSize is the largest unit that divides n.
func formatSize(n int64) string {
	units := []string{"", "K", "M", "G", "T"}
	i := 0
	for i < len(units)-1 && n%1024 == 0 && (n != 0 || i < len(units)-1) {
		n /= 1024
		i++
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// formatSizeText re-prints a size; what is none stays.
func formatSizeText(s string) string {
	if n, ok := parseSize(s); ok {
		return formatSize(n)
	}
	return s
}
