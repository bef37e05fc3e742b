// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"regexp"
	"slices"
)

var (
	worldWideName = Text{What: "WWN", Want: "0x and 16 hex digits", Pattern: regexp.MustCompile(`^0x[0-9a-fA-F]{16}$`), Fold: true}
	scsiName      = Text{Want: "letters, digits, blanks, - and _", Pattern: regexp.MustCompile(`^[A-Za-z0-9_\s-]*$`)}
)

// driveFields are the settings of a drive, without its volume.
func driveFields(bus string) []Field {
	fields := []Field{
		{Name: "aio", Value: Enum{"native", "threads", "io_uring"}},
		{Name: "backup", Value: flag, Default: "1"},
		{Name: "cache", Value: Enum{"none", "writethrough", "writeback", "unsafe", "directsync"}},
		{Name: "detect_zeroes", Value: flag, Default: "1"},
		{Name: "discard", Value: Enum{"ignore", "on"}, Default: "ignore"},
		{Name: "media", Value: Enum{"cdrom", "disk"}, Default: "disk"},
		{Name: "replicate", Value: flag, Default: "1"},
		{Name: "rerror", Value: Enum{"ignore", "report", "stop"}},
		{Name: "serial", Value: Text{What: urlEncoded.What, Max: 60, Pattern: urlEncoded.Pattern, Want: urlEncoded.Want}},
		{Name: "shared", Value: flag, Default: "0"},
		{Name: "snapshot", Value: flag, Default: "0"},
		{Name: "werror", Value: Enum{"enospc", "ignore", "report", "stop"}},
	}
	return slices.Concat(fields, throttleFields(), busFields(bus))
}

// busFields are the settings that only some buses have.
func busFields(bus string) []Field {
	wwn := Field{Name: "wwn", Value: worldWideName}
	ssd := Field{Name: "ssd", Value: flag, Default: "0"}
	iothread := Field{Name: "iothread", Value: flag, Default: "0"}
	ro := Field{Name: "ro", Value: flag, Default: "0"}
	switch bus {
	case "ide":
		return []Field{ssd, wwn, {Name: "model", Value: Text{What: urlEncoded.What, Max: 120, Pattern: urlEncoded.Pattern, Want: urlEncoded.Want}}}
	case "sata":
		return []Field{ssd, wwn}
	case "virtio":
		return []Field{iothread, ro}
	case "scsi":
		return []Field{
			iothread, ro, ssd, wwn,
			{Name: "product", Value: Text{What: "name", Max: 16, Want: scsiName.Want, Pattern: scsiName.Pattern}},
			{Name: "queues", Value: Int{2, noMax}},
			{Name: "scsiblock", Value: flag, Default: "0"},
			{Name: "vendor", Value: Text{What: "name", Max: 8, Want: scsiName.Want, Pattern: scsiName.Pattern}},
		}
	}
	return nil
}

// throttleFields are the limits of a drive: what, in which direction, and for
// how long it may be exceeded.
func throttleFields() []Field {
	var fields []Field
	for _, dir := range []string{"", "_rd", "_wr"} {
		fields = append(fields,
			Field{Name: "bps" + dir, Value: Int{0, noMax}, Default: "0"},
			Field{Name: "iops" + dir, Value: Int{0, noMax}, Default: "0"},
			Field{Name: "mbps" + dir, Value: Number{0, noMax}, Default: "0"},
			Field{Name: "iops" + dir + "_max", Value: Int{0, noMax}},
			Field{Name: "mbps" + dir + "_max", Value: Number{0, noMax}},
			Field{Name: "bps" + dir + "_max_length", Value: Int{1, noMax}},
			Field{Name: "iops" + dir + "_max_length", Value: Int{1, noMax}},
		)
		if dir != "" {
			fields = append(fields,
				Field{Name: "bps" + dir + "_length", Alias: "bps" + dir + "_max_length"},
				Field{Name: "iops" + dir + "_length", Alias: "iops" + dir + "_max_length"},
			)
		}
	}
	return fields
}
