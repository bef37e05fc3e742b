// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSignersFileErrorsNameTheLine(t *testing.T) {
	t.Parallel()
	key := newEd25519(t).line()
	blob := strings.TrimPrefix(key, "ssh-ed25519 ")
	for name, c := range map[string]struct{ line, want string }{
		"name only":            {"alice", "the key is missing"},
		"no key":               {"alice namespaces=\"git\"", "the key is missing"},
		"no blob":              {"alice ssh-ed25519", "the key is missing"},
		"base64":               {"alice ssh-ed25519 AAAA!", "the key is not base64"},
		"padding":              {"alice ssh-ed25519 AAAAB", "the key is not base64"},
		"cut":                  {"alice " + key[:len(key)-4], "the key is malformed"},
		"type":                 {"alice ssh-rsa " + blob, "the line says ssh-rsa and its key is of type ssh-ed25519"},
		"short RSA":            {"alice " + smallRSA(t).line(), "RSA keys below 2048 bits are not accepted: 1024 bits"},
		"DSA":                  {"alice " + (&testKey{pub: dsaKey(t)}).line(), "keys of this type are not accepted: ssh-dss"},
		"carriage return":      {"alice " + key + "\r", "a carriage return"},
		"control character":    {"alice " + key + " \a", "a control character"},
		"not UTF-8":            {"alice " + key + " caf\xe9", "not UTF-8"},
		"long":                 {"alice " + key + strings.Repeat(" ", maxKeyLine), "the line is too long"},
		"empty pattern":        {"alice,,bob " + key, "an empty pattern in the list"},
		"long pattern":         {strings.Repeat("a", maxPattern+1) + " " + key, "a pattern that is too long"},
		"byte-order mark":      {"\ufeffalice " + key, "a character in the list of principals that no name may have: \"\\ufeffalice\""},
		"look-alike":           {"\u0430lice,alice " + key, "a character in the list of principals that no name may have"},
		"tab in principals":    {"\"alice\tbob\" " + key, "a character in the list of principals that no name may have"},
		"quote in principals":  {"al\"ice " + key, "a quote inside the list of principals"},
		"open quote":           {"\"alice " + key, "the quote of the list of principals has no end"},
		"after the quote":      {"\"alice\"x " + key, "the list of principals goes on after its quote"},
		"unknown option":       {"alice restrict " + key, "the option \"restrict\" is unknown"},
		"option twice":         {"alice cert-authority,CERT-AUTHORITY " + key, "the option cert-authority is there twice"},
		"option with value":    {"alice cert-authority=\"x\" " + key, "the option \"cert-authority\" is unknown, or has a value"},
		"option without value": {"alice namespaces " + key, "the option \"namespaces\" is unknown, or has a value where it must have none, or none"},
		"no quotes":            {"alice namespaces=git " + key, "the value of an option is not in quotes"},
		"open value":           {"alice namespaces=\"git " + key, "a quote in the options has no end"},
		"two commas":           {"alice cert-authority,,namespaces=\"x\" " + key, "the option \"\" is unknown"},
		"last comma":           {"alice cert-authority, " + key, "the options are not separated by single commas"},
		"time":                 {"alice valid-after=\"20260231\" " + key, "valid-after is not a time"},
		"never valid":          {"alice valid-after=\"20270101Z\",valid-before=\"20260101Z\" " + key, "valid-before is not after valid-after"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSigners("/etc/felhom-agent/allowed_signers", []byte("# first\n\n"+c.line+"\n"), time.UTC)
			wantReason(t, err, ErrSignersFile)
			if err != nil && !strings.Contains(err.Error(), "/etc/felhom-agent/allowed_signers:3: "+c.want) {
				t.Errorf("error %q, want line 3 and %q", err, c.want)
			}
		})
	}
	_, err := ParseSigners("f", make([]byte, maxKeyFile+1), time.UTC)
	wantReason(t, err, ErrSignersFile)
}

func TestSignersFileForms(t *testing.T) {
	t.Parallel()
	key := newEd25519(t)
	text := requestText(t)
	armored := key.sshsig(text, ApprovalNamespace)
	for name, c := range map[string]struct {
		before string // what stands before the key
		want   Reason
	}{
		"plain":                  {"alice@example.com", ""},
		"indented":               {" \t alice@example.com\t ", ""},
		"pattern":                {"*@example.com", ""},
		"one character":          {"?lice@example.com", ""},
		"excluded":               {"*,!alice@example.com", ErrUnknownSigner},
		"excluded first":         {"!alice@example.com,*", ErrUnknownSigner},
		"only excluding":         {"!bob", ErrUnknownSigner},
		"other case":             {"Alice@example.com", ErrUnknownSigner},
		"quoted with a blank":    {"\"alice smith,alice@example.com\"", ""},
		"namespace":              {"alice@example.com namespaces=\"git,felhom-approval-v?\"", ""},
		"namespace in capitals":  {"alice@example.com NAMESPACES=\"felhom-approval-v1\"", ""},
		"namespace excluded":     {"alice@example.com namespaces=\"*,!felhom-approval-*\"", ErrSignerNamespace},
		"quote in a namespace":   {"alice@example.com namespaces=\"felhom-approval-v1\",valid-after=\"20260101\"", ""},
		"until this second":      {"alice@example.com valid-before=\"20261129153000Z\"", ""},
		"until the one before":   {"alice@example.com valid-before=\"20261129152959utc\"", ErrSignerLate},
		"from this minute":       {"alice@example.com valid-after=\"202611291530Z\"", ""},
		"from the next second":   {"alice@example.com valid-after=\"20261129153001Z\"", ErrSignerEarly},
		"an authority, not ours": {"alice@example.com cert-authority", ErrUnknownSigner},
	} {
		t.Run(name, func(t *testing.T) {
			signers := mustSigners(t, "# c\n"+c.before+" "+key.line()+" a comment with \"quotes\n")
			got, err := VerifyOne(text, ApprovalNamespace, Signed{alice, armored}, testNow, signers, nil)
			wantReason(t, err, c.want)
			if err == nil && got.Line != 2 {
				t.Errorf("line %d, want 2", got.Line)
			}
		})
	}
}

func TestNobodyMaySignWithoutSigners(t *testing.T) {
	t.Parallel()
	key, text := newEd25519(t), requestText(t)
	armored := key.sshsig(text, ApprovalNamespace)
	for _, s := range []*Signers{nil, {}, mustSigners(t, "# nobody\n")} {
		_, err := VerifyOne(text, ApprovalNamespace, Signed{alice, armored}, testNow, s, nil)
		wantReason(t, err, ErrUnknownSigner)
		_, err = VerifyOne(text, ApprovalNamespace, Signed{"", armored}, testNow, s, nil)
		wantReason(t, err, ErrWhoSigned)
		if s.Len() != 0 {
			t.Errorf("Len = %d", s.Len())
		}
	}
}

func TestWhoSigned(t *testing.T) {
	t.Parallel()
	key, ca := newEd25519(t), newEd25519(t)
	text := requestText(t)
	cert := func(names ...string) *testKey { return certify(t, ca, key, nil, names...) }
	for name, c := range map[string]struct {
		file   string
		signer *testKey
		who    string
		want   Reason
	}{
		"one name":                     {alice + " " + key.line(), key, alice, ""},
		"one name and a pattern":       {alice + ",*.example.org " + key.line(), key, alice, ""},
		"two names":                    {alice + ",bob " + key.line(), key, "", ErrWhoSigned},
		"two names, one excluded":      {alice + ",bob,!bob " + key.line(), key, alice, ""},
		"pattern only":                 {"*@example.com " + key.line(), key, "", ErrWhoSigned},
		"two lines, one expired":       {alice + " " + key.line() + "\nbob valid-before=\"20200101\" " + key.line(), key, alice, ""},
		"expired":                      {alice + " valid-before=\"20200101\" " + key.line(), key, "", ErrSignerLate},
		"certificate":                  {"*@example.com cert-authority " + ca.line(), cert(alice, "root"), alice, ""},
		"certificate with two names":   {"* cert-authority " + ca.line(), cert(alice, "root"), "", ErrWhoSigned},
		"certificate with odd names":   {"* cert-authority " + ca.line(), cert("*", alice), alice, ""},
		"certificate of nobody here":   {"bob cert-authority " + ca.line(), cert(alice), "", ErrWhoSigned},
		"a key that nobody's line has": {"bob " + ca.line(), key, "", ErrWhoSigned},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := VerifyOne(text, ApprovalNamespace, Signed{Armored: c.signer.sshsig(text, ApprovalNamespace)}, testNow, mustSigners(t, c.file), nil)
			wantReason(t, err, c.want)
			if got.Principal != c.who {
				t.Errorf("signed by %q, want %q", got.Principal, c.who)
			}
		})
	}
}

func TestSignerTimes(t *testing.T) {
	t.Parallel()
	budapest, err := time.LoadLocation("Europe/Budapest")
	if err != nil {
		t.Fatal(err)
	}
	type times struct{ Early, Late string }
	one := func(s string) *times { return &times{s, s} }
	for in, want := range map[string]*times{
		"20260102":          one("2026-01-01T23:00:00Z"),
		"20260102Z":         one("2026-01-02T00:00:00Z"),
		"20260102z":         one("2026-01-02T00:00:00Z"),
		"20260102UTC":       one("2026-01-02T00:00:00Z"),
		"202601021504":      one("2026-01-02T14:04:00Z"),
		"20260102150405":    one("2026-01-02T14:04:05Z"),
		"20260102150405Z":   one("2026-01-02T15:04:05Z"),
		"20260701120000":    {"2026-07-01T10:00:00Z", "2026-07-01T11:00:00Z"}, // summer time
		"20260701120000Z":   one("2026-07-01T12:00:00Z"),
		"2026010":           nil,
		"202601021":         nil,
		"2026010215040":     nil,
		"20260102150460":    nil,
		"20260102240000":    nil,
		"20260229":          nil,
		"20261301":          nil,
		"19700101Z":         nil,
		"19691231":          nil,
		"2026-1-2":          nil,
		" 2026010":          nil,
		"20260102 Z":        nil,
		"20260102ZZ":        nil,
		"":                  nil,
		"Z":                 nil,
		"999999999999999Z":  nil,
		"20260102T150405Z":  nil,
		"20260102150405.5Z": nil,
	} {
		early, late, ok := parseSignerTime(in, budapest)
		var got *times
		if ok {
			got = &times{early.UTC().Format(timeForm), late.UTC().Format(timeForm)}
		}
		if d := cmp.Diff(got, want); d != "" {
			t.Errorf("%q (-got +want):\n%s", in, d)
		}
	}
}

func TestGlob(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"*", "", true},
		{"**", "abc", true},
		{"a*c", "abbbc", true},
		{"a*c", "abbbd", false},
		{"*b*", "abc", true},
		{"?", "", false},
		{"?", "a", true},
		{"??", "a", false},
		{"*?", "a", true},
		{"*?", "", false},
		{"a*b*c", "a-b-b-c", true},
		{"*@example.com", "alice@example.com", true},
		{"*@example.com", "alice@example.com.evil", false},
		{"a.c", "abc", false},
		{strings.Repeat("a*", 60) + "b", strings.Repeat("a", 120), false},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestSplitSignatures(t *testing.T) {
	t.Parallel()
	text := requestText(t)
	a, b := newEd25519(t).sshsig(text, ApprovalNamespace), newEd25519(t).sshsig(text, ApprovalNamespace)
	ab := string(a) + string(b)
	for name, c := range map[string]struct {
		paste string
		n     int
		want  Reason
	}{
		"one":                   {string(a), 1, ""},
		"two":                   {ab, 2, ""},
		"empty lines":           {"\n\n" + string(a) + "\n\n" + string(b) + "\n", 2, ""},
		"no newline at the end": {strings.TrimSuffix(ab, "\n"), 2, ""},
		"nothing":               {"\n", 0, ErrUnsigned},
		"text before":           {"here:\n" + ab, 0, ErrArmorJunk},
		"text between":          {string(a) + "and\n" + string(b), 0, ErrArmorJunk},
		"text on the last line": {strings.TrimSuffix(ab, "\n") + "x", 0, ErrArmorJunk},
		"second cut off":        {ab[:len(ab)-40], 0, ErrArmorJunk},
		"CRLF":                  {strings.ReplaceAll(ab, "\n", "\r\n"), 0, ErrArmorJunk},
		"long":                  {strings.Repeat(ab, 1000), 0, ErrArmorLong},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := SplitSignatures([]byte(c.paste))
			wantReason(t, err, c.want)
			if len(got) != c.n {
				t.Fatalf("%d signatures, want %d", len(got), c.n)
			}
			for _, s := range got {
				if _, err := ParseSignature(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestArmorForms(t *testing.T) {
	t.Parallel()
	good := string(newEd25519(t).sshsig(requestText(t), ApprovalNamespace))
	lines := strings.Split(good, "\n")
	joined := armorBegin + "\n" + strings.Join(lines[1:len(lines)-2], "") + "\n" + armorEnd
	for name, c := range map[string]struct {
		armored string
		want    Reason
	}{
		"as ssh-keygen writes it": {good, ""},
		"no newline at the end":   {strings.TrimSuffix(good, "\n"), ""},
		"two newlines":            {good + "\n", ErrArmorJunk},
		"one long line":           {joined, ErrArmor},
		"empty":                   {"", ErrArmor},
		"no lines":                {armorBegin + "\n" + armorEnd, ErrArmor},
		"blank ahead":             {" " + good, ErrArmor},
		"blank at a line's end":   {strings.Replace(good, lines[2], lines[2]+" ", 1), ErrArmor},
		"empty line":              {strings.Replace(good, lines[2], lines[2]+"\n", 1), ErrArmor},
		"short line":              {strings.Replace(good, lines[2], lines[2][:8]+"\n"+lines[2][8:], 1), ErrArmor},
		"of a private key":        {strings.ReplaceAll(good, "SSH SIGNATURE", "OPENSSH PRIVATE KEY"), ErrArmor},
		"URL alphabet":            {armorBegin + "\nU1NIU0lH-_==\n" + armorEnd, ErrArmor},
		"loose bits":              {armorBegin + "\nU1NIU0lHAB==\n" + armorEnd, ErrArmor},
		"another blob":            {armorBegin + "\nAAAA\n" + armorEnd, ErrSigFormat},
		"nothing but the magic":   {armorBegin + "\nU1NIU0lH\n" + armorEnd, ErrSigFormat},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseSignature([]byte(c.armored))
			wantReason(t, err, c.want)
		})
	}
}

func TestMaySign(t *testing.T) {
	t.Parallel()
	key := newEd25519(t).line()
	for line, want := range map[string]bool{
		"":                                     false,
		"alice " + key:                         true,
		"alice namespaces=\"felhom-*\" " + key: true,
		"hub namespaces=\"felhom-desired-v1\" " + key:                                       false,
		"alice valid-before=\"20200101Z\" " + key:                                           false,
		"alice valid-after=\"20990101Z\" " + key:                                            true,
		"hub namespaces=\"felhom-desired-v1\" " + key + "\nca cert-authority " + key + "\n": true,
	} {
		s, err := ParseSigners("f", []byte(line), time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.MaySign(ApprovalNamespace, testNow); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if (*Signers)(nil).MaySign(ApprovalNamespace, testNow) {
		t.Error("nobody may sign")
	}
}
