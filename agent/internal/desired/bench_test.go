// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"strconv"
	"strings"
	"testing"
)

// BenchmarkParse reads 1000 guests of full size from one file.
func BenchmarkParse(b *testing.B) {
	one := fullTOML[strings.Index(fullTOML, "[guest.101]"):]
	var doc strings.Builder
	for i := range 1000 {
		doc.WriteString(strings.ReplaceAll(one, "guest.101", "guest."+strconv.Itoa(1000+i)))
	}
	snap := files("a.toml", doc.String())
	b.SetBytes(int64(doc.Len()))
	for b.Loop() {
		if _, err := Parse(testOptions, snap); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseHostile reads files of the largest size that are made to cost
// time and memory. None may take seconds.
func BenchmarkParseHostile(b *testing.B) {
	fill := func(head, part string) string { return head + strings.Repeat(part, (maxFile-len(head))/len(part)) }
	number := func(head, part string) string {
		var s strings.Builder
		s.WriteString(head)
		for i := 0; s.Len() < maxFile-40; i++ {
			s.WriteString(strings.ReplaceAll(part, "#", strconv.Itoa(i)))
		}
		return s.String()
	}
	for name, doc := range map[string]string{
		"unknown keys":        number("[guest.101]\nkind = \"lxc\"\n", "memry#=1\n"),
		"unknown config keys": number("[guest.101]\nkind = \"lxc\"\n[guest.101.config]\n", "nameservr#=1\n"),
		"many guests":         number("", "[guest.1#]\n"),
		"unknown tables":      number("", "[x#]\n"),
		"list of tables":      fill("", "[[a]]\n"),
		"quotes":              fill("a = \"", "\\u0041"),
		"unclosed":            fill("a = \"\"\"", "\"\" "),
		"lists":               fill("", "a=[[[[[[[0]]]]]]]\n"),
	} {
		b.Run(name, func(b *testing.B) {
			snap := files("a.toml", doc)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(testOptions, snap); err == nil {
					b.Fatal("accepted")
				}
			}
		})
	}
}
