// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

var memoryPattern = regexp.MustCompile(`^([0-9]{1,12}(?:\.[0-9]{1,12})?)(KiB|MiB|GiB|TiB)$`)

// ParseMemory reads an amount of memory with its unit ("2GiB", "512MiB",
// "1.5GiB") as whole MiB. A number without a unit is refused, because people
// mean different things by it.
func ParseMemory(s string) (mib int, err error) {
	m := memoryPattern.FindStringSubmatch(s)
	if m == nil {
		return 0, memoryError(s)
	}
	n, err := scaled(m[1], m[2])
	if err != nil {
		return 0, fmt.Errorf("guest: memory %q: %w", s, err)
	}
	if n%(1<<20) != 0 {
		return 0, fmt.Errorf("guest: memory %q is not a whole number of MiB", s)
	}
	return int(n >> 20), nil
}

func memoryError(s string) error {
	if _, ok := parseNumber(s); ok {
		return fmt.Errorf("guest: memory %q has no unit: write %q if MiB is meant (allowed: KiB, MiB, GiB, TiB)", s, s+"MiB")
	}
	return fmt.Errorf("guest: %q is not an amount of memory: want a number with KiB, MiB, GiB or TiB, as in \"512MiB\" or \"1.5GiB\"", s)
}

var sizePattern = regexp.MustCompile(`^([0-9]{1,18}(?:\.[0-9]{1,12})?)((?:[KMGT](?:iB)?)?)$`)

// ParseSize reads a disk size as bytes: with a unit ("8GiB") or as PVE writes
// it ("8G", "512M", and a bare number is bytes).
func ParseSize(s string) (bytes int64, err error) {
	m := sizePattern.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("guest: %q is not a size: want a number with KiB, MiB, GiB or TiB, as in \"8GiB\", or PVE's own \"8G\"", s)
	}
	n, err := scaled(m[1], m[2])
	if err != nil {
		return 0, fmt.Errorf("guest: size %q: %w", s, err)
	}
	return n, nil
}

// scaled multiplies a decimal number by a binary unit that begins with K, M, G
// or T. The product must be a whole number of bytes.
func scaled(number, unit string) (int64, error) {
	r, err := product(number, unit)
	if err != nil {
		return 0, err
	}
	if !r.IsInt() {
		return 0, fmt.Errorf("not a whole number of bytes")
	}
	return r.Num().Int64(), nil
}

// scaledRound is scaled for a product that need not be whole: rounded up to
// KiB, as PVE does when it allocates.
func scaledRound(number, unit string) (int64, error) {
	r, err := product(number, unit)
	if err != nil {
		return 0, err
	}
	n := new(big.Int).Div(r.Num(), r.Denom()).Int64()
	if !r.IsInt() || n%1024 != 0 {
		n = (n/1024 + 1) * 1024
	}
	return n, nil
}

func product(number, unit string) (*big.Rat, error) {
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return nil, fmt.Errorf("%q is not a number", number)
	}
	if unit != "" {
		shift := 10 * (strings.Index("KMGT", unit[:1]) + 1)
		r.Mul(r, new(big.Rat).SetInt64(1<<shift))
	}
	if limit := big.NewRat(1<<60, 1); r.Cmp(limit) > 0 {
		return nil, fmt.Errorf("more than 1 EiB")
	}
	return r, nil
}

// FormatSize writes bytes as PVE does: with the largest of T, G, M and K that
// divides it, as plain bytes if none does.
func FormatSize(bytes int64) string {
	for i, unit := range []string{"T", "G", "M", "K"} {
		shift := 10 * (4 - i)
		if bytes != 0 && bytes%(1<<shift) == 0 {
			return strconv.FormatInt(bytes>>shift, 10) + unit
		}
	}
	return strconv.FormatInt(bytes, 10)
}
