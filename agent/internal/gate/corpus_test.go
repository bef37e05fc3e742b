// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"crypto/elliptic"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	corpusSeed = flag.Uint64("corpus.seed", 0, "seed of the allowed_signers corpus (0: a new one, printed)")
	corpusSize = flag.Int("corpus.n", 520, "files in the allowed_signers corpus")
)

// corpus makes allowed_signers files out of parts, most of them well formed.
type corpus struct {
	*rand.Rand
	lines map[string]string // name of a key to "type base64"
	sigs  map[string][]byte // "signer/namespace" to armored signature
	text  []byte
}

// sample is one file and the question that both sides are asked about it.
type sample struct {
	name      string // number and what is special about it
	file      string
	revoked   string // "-" for none
	signature string
	principal string
	namespace string
	zone      string
	now       time.Time
}

// summerNow is a moment at which the zones of the corpus have summer time,
// where OpenSSH and people read a local time differently.
var summerNow = time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC)

func newCorpus(t *testing.T, seed uint64) *corpus {
	t.Helper()
	ca := newEd25519(t)
	signers := map[string]*testKey{
		"ed": newEd25519(t), "ec": newECDSA(t, elliptic.P384()), "rsa": newRSA(t, 2048), "sk": newSK(t, ssh.KeyAlgoSKED25519),
		"untouched": nil,
	}
	signers["untouched"] = signers["sk"].with(0, "")
	cert := func(change func(*ssh.Certificate), names ...string) *testKey {
		return certify(t, ca, signers["ed"], change, names...)
	}
	signers["cert"] = cert(nil, "alice@example.com", "carol")
	signers["cert-late"] = cert(func(c *ssh.Certificate) { c.ValidBefore = uint64(testNow.Unix()) }, "alice@example.com")
	signers["cert-early"] = cert(func(c *ssh.Certificate) { c.ValidAfter = uint64(testNow.Unix() + 1) }, "alice@example.com")
	signers["cert-nobody"] = cert(nil)
	signers["cert-host"] = cert(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, "alice@example.com")
	signers["cert-option"] = cert(func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "x"} }, "alice@example.com")
	c := &corpus{Rand: rand.New(rand.NewPCG(seed, 1)), lines: map[string]string{"ca": ca.line()}, sigs: map[string][]byte{}, text: requestText(t)}
	for name, k := range signers {
		c.lines[name] = k.line()
		for _, ns := range []string{ApprovalNamespace, "git"} {
			c.sigs[name+"/"+ns] = k.sshsig(c.text, ns)
		}
	}
	c.lines["ed-as-cert"] = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signers["cert"].pub)))
	return c
}

// pick takes one of usual, or now and then one of odd and notes it.
func (c *corpus) pick(notes *[]string, note string, usual, odd []string) string {
	if c.IntN(45) == 0 {
		*notes = append(*notes, note)
		return odd[c.IntN(len(odd))]
	}
	return usual[c.IntN(len(usual))]
}

var (
	usualPrincipals = []string{
		"alice@example.com", "alice@example.com", "*", "*@example.com", "alice@*", "bob,alice@example.com", "?lice@example.com",
		"carol,!bob,*@example.com", "*,!alice@example.com", "!bob,*", "\"alice@example.com\"", "\"bob,*@example.com\"", "carol", "bob",
	}
	oddPrincipals = []string{
		"\"alice@example.com", "alice@example.com,,bob", ",alice@example.com", "!!bob,*", "\"\"", "al\"ice@example.com\"", "\"alice\"@example.com",
		"!alice@example.com", "ALICE@EXAMPLE.COM", "alice@example.com,", "\"alice smith,alice@example.com\"", "a**e@example.com", "\"alice@example.com\"x",
	}
	usualOptions = []string{
		"", "", "", "", "", "", "", "", "", "", "namespaces=\"felhom-approval-v1\"", "namespaces=\"git,felhom-*\"", "namespaces=\"git\"", "namespaces=\"*,!felhom-approval-v1\"",
		"valid-after=\"20260101Z\"", "valid-after=\"202611291529Z\"", "valid-after=\"20261129153000Z\"", "valid-after=\"20261129153001Z\"", "valid-after=\"20261130\"",
		"valid-before=\"20270101\"", "valid-before=\"20261129153000Z\"", "valid-before=\"20261129152959Z\"", "valid-before=\"202611291530Z\"",
		"valid-before=\"20261129163000\"", "valid-after=\"20261129163000\"", "valid-before=\"20261129103000\"", "valid-after=\"20261129103000\"",
		"valid-after=\"20260701120000\",valid-before=\"20270701120000\"", "namespaces=\"felhom-approval-v1\",valid-before=\"20271231Z\"",
		"VALID-AFTER=\"20260101utc\"", "valid-before=\"202607151430\"", "valid-after=\"202607151330\"", "valid-before=\"202607150830\"", "valid-after=\"202607150730\"", "Namespaces=\"felhom-approval-v1\"",
	}
	oddOptions = []string{
		"cert-authority", "valid-after=20260101", "valid-after=\"20261301\"", "valid-after=\"20260231\"", "valid-after=\"2026010\"", "valid-after=\"20260101", "restrict",
		"namespaces=\"git\",namespaces=\"felhom-approval-v1\"", "namespaces=\"\"", "namespaces", "valid-before=\"\"", "valid-after=\"20270101\",valid-before=\"20260101\"",
		"cert-authority,cert-authority", "namespaces=\"felhom-approval-v1\",", ",namespaces=\"git\"", "cert-authority=\"yes\"", "valid-after=\"20260101Z\"\"\"",
		"no-touch-required", "verify-required", "namespaces=\"felhom-approval-v1\",,valid-after=\"20260101\"", "valid-after=\"19700101Z\"", "namespaces=\"a\\\"b,felhom-*\"",
		"cert-authorityx", "valid-after=\"20260101120060Z\"", "valid-after=\"20260101ZZ\"", "valid-before=\" 2027010Z\"", "namespaces=\"felhom-approval-v1 \"",
	}
	usualBlanks = []string{" ", " ", " ", "\t", "  ", " \t "}
	usualTails  = []string{"", "", " alice's laptop", " comment \"with quotes", "\tx", " # not a comment"}
	oddTails    = []string{"\r", " \r", " bell\a", " caf\xe9", "=", " \x00", "AAAA", " " + strings.Repeat("x", maxKeyLine)}
)

func (c *corpus) line(key string, notes *[]string) string {
	option := c.pick(notes, "option", usualOptions, oddOptions)
	if key == "ca" && c.IntN(8) > 0 {
		option = strings.TrimSuffix("cert-authority,"+option, ",")
	}
	words := []string{c.pick(notes, "principals", usualPrincipals, oddPrincipals)}
	if option != "" {
		words = append(words, option)
	}
	word, blob, _ := strings.Cut(c.lines[key], " ")
	word = c.pick(notes, "key type", []string{word}, []string{"ssh-ed25519", "ED25519", "ssh-rsa", "ssh-ed448", "rsa-sha2-512", ""})
	blob = c.pick(notes, "key", []string{blob}, []string{blob[:len(blob)-3], strings.TrimRight(blob, "="), blob + "AA==", "????", "", "-" + blob[1:]})
	out := c.pick(notes, "indent", []string{"", "", " "}, []string{"\v", "\u00a0"})
	for _, w := range append(words, word) {
		out += w + c.pick(notes, "blank", usualBlanks, []string{"", "\v"})
	}
	return out + blob + c.pick(notes, "tail", usualTails, oddTails)
}

func (c *corpus) sample(n int) sample {
	names := slices.Sorted(maps.Keys(c.sigs))
	s := sample{
		signature: names[c.IntN(len(names))], principal: "alice@example.com", namespace: ApprovalNamespace, revoked: "-",
		zone: []string{"UTC", "Europe/Budapest", "America/New_York"}[c.IntN(3)], now: testNow,
	}
	if c.IntN(5) == 0 {
		s.now = summerNow
	}
	if c.IntN(4) > 0 { // the plain good signatures make the file decide
		s.signature = []string{"ed", "ec", "rsa", "sk", "cert"}[c.IntN(5)] + "/" + ApprovalNamespace
	}
	if c.IntN(10) == 0 {
		s.principal = []string{"bob", "carol", "mallory@example.com", "alice"}[c.IntN(4)]
	}
	if c.IntN(14) == 0 {
		s.namespace = "git"
	}
	var notes, lines []string
	for range 1 + c.IntN(3) {
		lines = append(lines, c.line(c.keyFor(s.signature), &notes))
	}
	lines = append(lines, c.pick(&notes, "extra line", []string{"", "# a comment", "  # indented", "\t"}, []string{"alice@example.com", "nonsense in a line", "#\r", "\\"}))
	c.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	s.file = strings.Join(lines, "\n") + c.pick(&notes, "end", []string{"\n", "\n", ""}, []string{"\n\n\n", "\r\n"})
	if c.IntN(8) == 0 {
		key := []string{"ed", "ec", "ca", "ed-as-cert"}[c.IntN(4)]
		s.revoked = c.pick(&notes, "revoked", []string{"# none\n", c.lines[key] + " gone\n", "\n " + c.lines[key] + "\n"}, []string{c.lines[key][:50] + "\n", "restrict " + c.lines[key] + "\n", "x\n"})
		notes = append(notes, "with revoked_keys")
	}
	s.name = fmt.Sprintf("%03d %s as %s in %s, %s", n, s.signature, s.principal, s.namespace, strings.Join(append(notes, s.zone, s.now.Format("January")), "+"))
	return s
}

// keyFor is mostly a key that the signature is about.
func (c *corpus) keyFor(signature string) string {
	name, _, _ := strings.Cut(signature, "/")
	switch {
	case c.IntN(5) == 0:
		all := slices.Sorted(maps.Keys(c.lines))
		return all[c.IntN(len(all))]
	case strings.HasPrefix(name, "cert") && c.IntN(10) > 0:
		return "ca"
	}
	return name
}

// theirs is ssh-keygen's verdict, in a directory of the sample's own.
func (c *corpus) theirs(k *keygen, s sample) error {
	k.env = []string{"TZ=" + s.zone}
	k.write("signers", []byte(s.file))
	k.write("sig", c.sigs[s.signature])
	args := []string{
		"-Y", "verify", "-f", "signers", "-I", s.principal, "-n", s.namespace, "-s", "sig",
		"-Overify-time=" + s.now.Format("20060102150405") + "Z",
	}
	if s.revoked != "-" {
		k.write("revoked", []byte(s.revoked))
		args = append(args, "-r", "revoked")
	}
	_, err := k.try(c.text, args...)
	return err
}

func (c *corpus) ours(t *testing.T, s sample) error {
	loc, err := time.LoadLocation(s.zone)
	if err != nil {
		t.Fatal(err)
	}
	signers, err := ParseSigners("allowed_signers", []byte(s.file), loc)
	if err != nil {
		return err
	}
	var revoked *Revoked
	if s.revoked != "-" {
		if revoked, err = ParseRevoked("revoked_keys", []byte(s.revoked)); err != nil {
			return err
		}
	}
	_, err = VerifyOne(c.text, s.namespace, Signed{Principal: s.principal, Armored: c.sigs[s.signature]}, s.now, signers, revoked)
	return err
}

// stricter are the reasons for which we may refuse what ssh-keygen accepts.
var stricter = map[Reason]string{
	ErrSignersFile: "a malformed line refuses the file; ssh-keygen skips it",
	ErrRevokedFile: "a malformed line refuses the file",
	ErrTouch:       "ssh-keygen takes FIDO signatures without touch",
	ErrCertOption:  "ssh-keygen ignores critical options",
	ErrSignerLate:  "a local time in summer time is taken as the earlier of its two readings",
	ErrSignerEarly: "a local time in summer time is taken as the later of its two readings",
}

type verdict struct{ theirs, ours error }

// TestCorpusAgainstKeygen asks ssh-keygen -Y verify and us the same about
// generated allowed_signers files. We may be stricter, for a reason that is
// known here; never laxer.
func TestCorpusAgainstKeygen(t *testing.T) {
	t.Parallel()
	first := newKeygen(t)
	seed := *corpusSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -corpus.seed=%d", seed)
	c := newCorpus(t, seed)
	samples := make([]sample, *corpusSize)
	for i := range samples {
		samples[i] = c.sample(i)
	}
	verdicts := make([]verdict, len(samples))
	var wg sync.WaitGroup
	const workers = 4
	for w := range workers {
		dir := filepath.Join(first.dir, fmt.Sprint(w))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		k := &keygen{t: t, path: first.path, dir: dir}
		wg.Go(func() {
			for i := w; i < len(samples); i += workers {
				verdicts[i] = verdict{c.theirs(k, samples[i]), c.ours(t, samples[i])}
			}
		})
	}
	wg.Wait()
	report(t, samples, verdicts)
}

func report(t *testing.T, samples []sample, verdicts []verdict) {
	accepted, refused, laxer := 0, 0, 0
	differences := map[Reason][]string{}
	for i, v := range verdicts {
		s, reason := samples[i], ReasonOf(v.ours)
		switch {
		case v.ours == nil && v.theirs != nil:
			laxer++
			t.Errorf("LAXER than ssh-keygen: %s\nfile:\n%q\nrevoked: %q", s.name, s.file, s.revoked)
		case v.ours == nil:
			accepted++
		case v.theirs != nil:
			refused++
		default:
			if stricter[reason] == "" {
				t.Errorf("stricter for a reason that is not known: %s: %v\nfile:\n%q", s.name, v.ours, s.file)
			}
			differences[reason] = append(differences[reason], s.name+": "+v.ours.Error())
		}
	}
	for reason, list := range differences {
		t.Logf("stricter, %s (%s):\n  %s", reason, stricter[reason], strings.Join(list, "\n  "))
	}
	t.Logf("%d files: both accept %d, both refuse %d, ours stricter %d, ours laxer %d", len(samples), accepted, refused, len(samples)-accepted-refused-laxer, laxer)
	if accepted < len(samples)/8 || refused < len(samples)/8 {
		t.Errorf("the corpus is too one-sided to mean anything")
	}
}
