// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// listOf checks each item of a list; an empty list is fine.
func listOf(f format) format {
	return func(s string) error {
		for _, item := range splitList(s) {
			if err := f(item); err != nil {
				return err
			}
		}
		return nil
	}
}

// matches is a format that is a regular expression; text may hold one %s for
// the value.
func matches(re, text string) format {
	compiled := regexp.MustCompile(`^(?:` + re + `)\n?$`)
	return func(s string) error {
		if compiled.MatchString(s) {
			return nil
		}
		if strings.Contains(text, "%s") {
			return fmt.Errorf(text, s)
		}
		return errors.New(text)
	}
}

var (
	dnsName = matches(`([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)`,
		"value does not look like a valid DNS name")
	configID   = matches(`(?i)[a-z][a-z0-9_-]+`, "invalid configuration ID '%s'")
	storageID  = matches(`(?i)[a-z][a-z0-9\-_.]*[a-z0-9]`, "storage ID '%s' contains illegal characters")
	volumeID   = matches(`(?i)[a-z][a-z0-9\-_.]*[a-z0-9]:.+`, "unable to parse volume ID '%s'")
	tagName    = matches(`(?i)[a-z0-9_][a-z0-9_\-+.]*`, "invalid characters in tag")
	macAddress = matches(`(?i)[a-f0-9][02468ace](:[a-f0-9]{2}){5}`, "value does not look like a valid unicast MAC address")
	urlEncoded = matches(`[-%a-zA-Z0-9_.!~*'()]*`, "invalid urlencoded string: %s")
	ifaceName  = matches(`(?i)[a-z][a-z0-9_]{1,20}([:.][0-9]+)?`, "invalid network interface name '%s'")
)

func isIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

func isIPv6(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is6() && a.Zone() == ""
}

// isCIDR wants an address with a prefix of 8 or more bits.
func isCIDR(s string, address func(string) bool, maxBits int) bool {
	addr, bits, ok := strings.Cut(s, "/")
	if !ok || !isDigits(bits) || len(bits) > 4 || !address(addr) {
		return false
	}
	n := 0
	for i := range len(bits) {
		n = n*10 + int(bits[i]-'0')
	}
	return n > 7 && n <= maxBits
}

// check turns a test into a format.
func check(ok func(string) bool, text string) format {
	return func(s string) error {
		if ok(s) {
			return nil
		}
		return errors.New(text)
	}
}

var (
	ipv4 = check(isIPv4, "value does not look like a valid IPv4 address")
	ipv6 = check(isIPv6, "value does not look like a valid IPv6 address")
	ip   = check(func(s string) bool { return isIPv4(s) || isIPv6(s) }, "value does not look like a valid IP address")

	ipv4Config = check(func(s string) bool {
		return s == "dhcp" || s == "manual" || isCIDR(s, isIPv4, 32)
	}, "value does not look like a valid ipv4 network configuration")
	ipv6Config = check(func(s string) bool {
		return s == "auto" || s == "dhcp" || s == "manual" || isCIDR(s, isIPv6, 128)
	}, "value does not look like a valid ipv6 network configuration")

	startupOrder = check(isStartup, "unable to parse startup options")
)

// ipWithInterface takes an address, and for a link-local one "%IFACE" after it.
func ipWithInterface(s string) error {
	if addr, iface, ok := strings.Cut(s, "%"); ok && strings.HasPrefix(addr, "fe80:") && ifaceName(iface) == nil {
		return ip(addr)
	}
	return ip(s)
}

func isStartup(s string) bool {
	if s == "" || s == "0" {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		if trimBlank(part) == "" {
			continue
		}
		key, val, keyed := strings.Cut(part, "=")
		if !keyed {
			key, val = "order", part
		}
		if key != "order" && key != "up" && key != "down" || !isDigits(val) {
			return false
		}
	}
	return true
}

func diskSize(s string) error {
	if _, ok := parseSize(s); !ok {
		return fmt.Errorf("value does not look like a valid disk size: %s", s)
	}
	return nil
}

// timezone takes a zone of the tz database's zone.tab.
func timezone(s string) error {
	if s != "UTC" && !isZone(s) {
		return fmt.Errorf("invalid time zone '%s'", s)
	}
	return nil
}

// ctTimezone also takes "host".
func ctTimezone(s string) error {
	if s == "host" {
		return nil
	}
	return timezone(s)
}
