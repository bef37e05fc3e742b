// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// The formats that several keys share. They are never changed.
var (
	dnsName = Text{
		What: "DNS name", Max: 255, Want: "letters, digits and dashes, parts joined by dots",
		Pattern: regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?$`),
	}
	mac = Text{
		What: "MAC address", Want: "a unicast MAC like BC:24:11:00:00:01", Fold: true,
		Pattern: regexp.MustCompile(`^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$`),
	}
	volumeID = Text{
		What: "volume id", Want: "STORAGE:NAME",
		Pattern: regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]:[^,]+$`),
	}
	storageID = Text{What: "storage", Want: "the name of a storage", Pattern: regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*[a-zA-Z0-9]$`)}
	configID  = Text{What: "name", Want: "a letter, then letters, digits, - and _", Pattern: regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]+$`)}
	bridge    = Text{What: "bridge", Want: "the name of a bridge or vnet", Pattern: regexp.MustCompile(`^[-_.\w]+$`)}
	base64s   = Text{What: "base64", Want: "base64", Pattern: regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2}$`)}
	uuid      = Text{
		What: "UUID", Want: "a UUID", Fold: true,
		Pattern: regexp.MustCompile(`^[a-fA-F0-9]{8}(-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}$`),
	}
	tag = Text{
		What: "tag", Want: "a letter, digit or _, then also - + and .",
		Pattern: regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_+.-]*$`),
	}
	timezone = Text{
		What: "time zone", Want: "host, UTC or the name of a zone as in Europe/Zurich",
		Pattern: regexp.MustCompile(`^(host|UTC|[A-Z][A-Za-z]+(/[A-Z][A-Za-z_-]+){1,2})$`), Valid: notEtc,
	}
	urlEncoded = Text{What: "URL-encoded text", Want: "URL-encoded text", Pattern: regexp.MustCompile(`^([-%A-Za-z0-9_.!~*'()]|%[0-9a-fA-F]{2})*$`)}
	flag       = Bool{Words: true}
	tags       = List{Item: tag, Set: true, Lower: true}
)

// notEtc refuses zones that are not in the table of the world's places, which
// is what PVE looks in.
func notEtc(s string) error {
	if strings.HasPrefix(s, "Etc/") {
		return fmt.Errorf("%q is not in PVE's list of zones: write UTC or a place", s)
	}
	return nil
}

// Addr is an IP address, with a prefix length if Prefix, or one of Words. It
// is compared as an address: FD00::5 is fd00:0:0:0:0:0:0:5.
type Addr struct {
	V4, V6 bool
	Prefix bool
	Zone   bool     // a link-local address may name its interface
	Words  []string // "dhcp", "manual", ...
}

// Name implements Value.
func (a Addr) Name() string { return a.want() }

// Rule implements Value.
func (Addr) Rule() string { return "as IP address" }

func (a Addr) want() string {
	kind := "IP address"
	switch {
	case a.V4 && !a.V6:
		kind = "IPv4 address"
	case a.V6 && !a.V4:
		kind = "IPv6 address"
	}
	if a.Prefix {
		kind += " with prefix length"
	}
	return strings.Join(append([]string{kind}, a.Words...), ", ")
}

// Check implements Value.
func (a Addr) Check(s string) error {
	if slices.Contains(a.Words, s) {
		return nil
	}
	addr, bits, err := a.parse(s)
	switch {
	case err != nil,
		addr.Is4() && !a.V4, addr.Is6() && !a.V6,
		a.Prefix && bits < 8,
		addr.Zone() != "" && (!a.Zone || !addr.IsLinkLocalUnicast()):
		return fmt.Errorf("%q is not allowed: want %s", s, a.want())
	}
	return nil
}

func (a Addr) parse(s string) (netip.Addr, int, error) {
	if a.Prefix {
		p, err := netip.ParsePrefix(s)
		return p.Addr(), p.Bits(), err
	}
	addr, err := netip.ParseAddr(s)
	return addr, 0, err
}

// Normal implements Value.
func (a Addr) Normal(s string) string {
	addr, bits, err := a.parse(s)
	switch {
	case err != nil:
		return s
	case a.Prefix:
		return fmt.Sprintf("%s/%d", addr, bits)
	}
	return addr.String()
}

// Bytes is a size as PVE writes it in a property string: 8G, 512M, bytes.
type Bytes struct{}

// Name implements Value.
func (Bytes) Name() string { return "size" }

// Rule implements Value.
func (Bytes) Rule() string { return "by number of bytes" }

// Check implements Value.
func (Bytes) Check(s string) error {
	if strings.HasSuffix(s, "iB") {
		return fmt.Errorf("%q is not a size PVE writes: want it as in 8G", s)
	}
	_, err := ParseSize(s)
	return err
}

// Normal implements Value.
func (Bytes) Normal(s string) string {
	if n, err := ParseSize(s); err == nil {
		return FormatSize(n)
	}
	return s
}

// SSHKeys are public keys, one a line, URL-encoded as PVE wants them.
type SSHKeys struct{}

// Name implements Value.
func (SSHKeys) Name() string { return "URL-encoded SSH public keys" }

// Rule implements Value.
func (SSHKeys) Rule() string { return "decoded, line by line, without empty lines" }

// Check implements Value. PVE has each line read by ssh-keygen, so a key that
// is damaged is refused here as it would be there.
func (k SSHKeys) Check(s string) error {
	if err := urlEncoded.Check(s); err != nil {
		return fmt.Errorf("not URL-encoded (a blank is %%20, a line end %%0A)")
	}
	for _, line := range k.lines(s) {
		if err := checkKey(line); err != nil {
			return err
		}
	}
	return nil
}

func (SSHKeys) lines(s string) []string {
	text, err := url.PathUnescape(s)
	if err != nil {
		text = s
	}
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// checkKey looks whether a line is a public key: the blob must begin with the
// name of its own type and be made of whole fields.
func checkKey(line string) error {
	fields := strings.Fields(line)
	if i := slices.IndexFunc(fields, isKeyType); i >= 0 && i+1 < len(fields) {
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err == nil && wholeKey(blob, fields[i]) {
			return nil
		}
	}
	return fmt.Errorf("%q is not an SSH public key", shorten(line))
}

func isKeyType(s string) bool {
	return strings.HasPrefix(s, "ssh-") || strings.HasPrefix(s, "ecdsa-sha2-") || strings.HasPrefix(s, "sk-")
}

func wholeKey(blob []byte, keyType string) bool {
	for i := 0; len(blob) > 0; i++ {
		if len(blob) < 4 {
			return false
		}
		n := binary.BigEndian.Uint32(blob)
		blob = blob[4:]
		if uint64(n) > uint64(len(blob)) || i == 0 && !bytes.Equal(blob[:n], []byte(keyType)) {
			return false
		}
		blob = blob[n:]
	}
	return true
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// Normal implements Value.
func (k SSHKeys) Normal(s string) string { return strings.Join(k.lines(s), "\n") }

// Env is the environment of a container's first process: NAME=value pairs with
// a NUL between them.
type Env struct{}

var envPattern = regexp.MustCompile(`^\w+=[^\x00-\x08\x10-\x1f\x7f]*$`)

// Name implements Value.
func (Env) Name() string { return "NAME=value pairs, NUL between" }

// Rule implements Value.
func (Env) Rule() string { return "pair by pair in order" }

// Check implements Value.
func (Env) Check(s string) error {
	for pair := range strings.SplitSeq(s, "\x00") {
		if !envPattern.MatchString(pair) || strings.ContainsAny(pair, "\r\n") {
			return fmt.Errorf("a part is not of the form NAME=value on one line")
		}
	}
	return nil
}

// Normal implements Value.
func (Env) Normal(s string) string { return s }
