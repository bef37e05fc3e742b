// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

// Bounds of allowed_signers and revoked_keys.
const (
	maxKeyFile = 4 << 20
	maxKeyLine = 16 << 10
)

// Signers is an allowed_signers file.
type Signers struct{ entries []entry }

// entry is one line of it: these names may sign with this key (or with a
// certificate of this authority).
type entry struct {
	line       int
	principals patterns
	authority  bool
	namespaces patterns // meaningful if limited
	limited    bool
	// earliest and latest are zero if the line does not say.
	earliest, latest time.Time
	key              ssh.PublicKey
}

// ParseSigners reads an allowed_signers file in the format of ssh-keygen(1).
// file is its name for messages; times without Z are read in loc. Where
// ssh-keygen skips a malformed line, here the file is refused, with the line
// in the message, so that nobody believes in an entry that does not count.
// Also refused are keys that could never count: certificates given in place of
// a key, DSA, RSA below 2048 bits.
func ParseSigners(file string, data []byte, loc *time.Location) (*Signers, error) {
	s := &Signers{}
	err := eachKeyLine(ErrSignersFile, file, data, func(n int, text string) string {
		e := entry{line: n}
		if why := e.parse(text, loc); why != "" {
			return why
		}
		s.entries = append(s.entries, e)
		return ""
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Len is the number of entries. A nil Signers has none.
func (s *Signers) Len() int {
	if s == nil {
		return 0
	}
	return len(s.entries)
}

// MaySign reports whether there is a line by which anybody may sign in the
// namespace now or later.
func (s *Signers) MaySign(namespace string, now time.Time) bool {
	return slices.ContainsFunc(s.list(), func(e entry) bool {
		return (!e.limited || e.namespaces.match(namespace)) && (e.latest.IsZero() || !now.After(e.latest))
	})
}

// eachKeyLine calls do with each line that is neither empty nor a comment,
// without leading blanks. What do returns is why the line is refused.
func eachKeyLine(r Reason, file string, data []byte, do func(n int, text string) string) error {
	if len(data) > maxKeyFile {
		return refuse(r, "%s: %d bytes, at most %d", file, len(data), maxKeyFile)
	}
	n := 0
	for text := range strings.Lines(string(data)) {
		n++
		text = strings.TrimSuffix(text, "\n")
		why := checkKeyLine(text)
		if text = strings.TrimLeft(text, " \t"); why == "" && text != "" && text[0] != '#' {
			why = do(n, text)
		}
		if why != "" {
			return refuse(r, "%s:%d: %s", file, n, why)
		}
	}
	return nil
}

func checkKeyLine(text string) string {
	switch {
	case len(text) > maxKeyLine:
		return "the line is too long"
	case strings.Contains(text, "\r"):
		return "a carriage return; the file must have Unix line ends"
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return "a control character"
	case !utf8.ValidString(text):
		return "not UTF-8"
	}
	return ""
}

// parse reads "principals [options] keytype base64 [comment]".
func (e *entry) parse(text string, loc *time.Location) string {
	names, rest, why := cutPrincipals(text)
	if why != "" {
		return why
	}
	if e.principals, why = parsePrincipals(names); why != "" {
		return why
	}
	if first, _ := cutBlank(rest); !isKeyWord(first) {
		opts, after, why := cutOptions(rest)
		if why != "" {
			return why
		}
		if why = e.parseOptions(opts, loc); why != "" {
			return why
		}
		rest = after
	}
	if e.key, why = parseKeyFields(rest); why != "" {
		return why
	}
	if err := checkKey(e.key); err != nil {
		return err.Error()
	}
	return ""
}

// parsePrincipals refuses what no name that counts here can hold, like a
// byte-order mark before the first: such a line would never count.
func parsePrincipals(names string) (patterns, string) {
	if i := strings.IndexFunc(names, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		return nil, "a character in the list of principals that no name may have: " + strconv.QuoteToASCII(names[i:min(i+8, len(names))])
	}
	return parsePatterns(names)
}

// cutPrincipals takes the first field, which may stand in quotes.
func cutPrincipals(text string) (names, rest, why string) {
	if !strings.HasPrefix(text, "\"") {
		names, rest = cutBlank(text)
		if strings.Contains(names, "\"") {
			return "", "", "a quote inside the list of principals"
		}
		return names, rest, ""
	}
	names, rest, ok := strings.Cut(text[1:], "\"")
	if !ok {
		return "", "", "the quote of the list of principals has no end"
	}
	if rest != "" && rest[0] != ' ' && rest[0] != '\t' {
		return "", "", "the list of principals goes on after its quote"
	}
	return names, strings.TrimLeft(rest, " \t"), ""
}

// cutBlank cuts at the first run of blanks.
func cutBlank(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// isKeyWord reports whether a field is meant as a key type, accepted or not.
func isKeyWord(s string) bool {
	for _, p := range []string{"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-", "webauthn-sk-"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// parseKeyFields reads "keytype base64 [comment]".
func parseKeyFields(s string) (ssh.PublicKey, string) {
	word, rest := cutBlank(s)
	blob, _ := cutBlank(rest)
	if word == "" || blob == "" {
		return nil, "the key is missing"
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(blob)
	if err != nil {
		return nil, "the key is not base64"
	}
	key, err := ssh.ParsePublicKey(raw)
	if err != nil {
		return nil, "the key is malformed: " + err.Error()
	}
	if key.Type() != word {
		return nil, "the line says " + word + " and its key is of type " + key.Type()
	}
	return key, ""
}
