// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent"
	"github.com/felhom/felhom-agent/agent/internal/control"
	"github.com/felhom/felhom-agent/agent/internal/gate"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/pkg/guest"
)

// words is an option that may be given more than once.
type words []string

func (w *words) String() string { return strings.Join(*w, ", ") }

// Set is flag.Value's.
func (w *words) Set(s string) error {
	*w = append(*w, s)
	return nil
}

// signing is where signatures come from.
type signing struct {
	keys, files, as words
}

func (s *signing) flags(f *flags) {
	f.Var(&s.keys, "sign-with", "private or public key `file` to sign with (ssh-keygen; security keys and ssh-agent work)")
	f.Var(&s.files, "signature", "`file` with signatures that were made elsewhere; - is standard input")
	f.Var(&s.as, "signer", "`name` of the signer in allowed_signers, if a key may sign for more than one; one for each signature")
}

func (s *signing) none() bool { return len(s.keys)+len(s.files) == 0 }

// maxPaste bounds pasted signatures, in bytes.
const maxPaste = 64 << 10

// collect makes and reads the signatures of a text.
func (s *signing) collect(ctx context.Context, e *env, namespace, text string) ([]ledger.Signature, error) {
	var all [][]byte
	for _, key := range s.keys {
		sig, err := sign(ctx, e, key, namespace, text)
		if err != nil {
			return nil, err
		}
		all = append(all, sig)
	}
	for _, name := range s.files {
		b, err := readPaste(name)
		if err != nil {
			return nil, err
		}
		some, err := gate.SplitSignatures(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, some...)
	}
	if len(s.as) > len(all) {
		return nil, fmt.Errorf("%w: %d signers are named for %d signatures", errUsage, len(s.as), len(all))
	}
	out := make([]ledger.Signature, len(all))
	for i, sig := range all {
		out[i].Armored = string(sig)
		if i < len(s.as) {
			out[i].Principal = s.as[i]
		}
	}
	return out, nil
}

// sign has ssh-keygen sign a text. It asks for a passphrase, PIN or touch on
// the terminal by itself.
func sign(ctx context.Context, e *env, key, namespace, text string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "ssh-keygen", "-Y", "sign", "-n", namespace, "-f", key)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &out, plain(e.stderr)
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("ssh-keygen could not sign with %s: %w", key, err)
	}
	return out.Bytes(), nil
}

func readPaste(name string) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxPaste))
	}
	var b bytes.Buffer
	in := bufio.NewScanner(io.LimitReader(os.Stdin, maxPaste))
	for in.Scan() { // a terminal has no end of file: the last line is the end
		b.WriteString(in.Text() + "\n")
		if strings.HasPrefix(in.Text(), "-----END ") {
			break
		}
	}
	return b.Bytes(), in.Err()
}

func permitNew(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "permit new", `print the text of a standing permit, to be signed and handed in with permit add:
whoever the asker is may have these actions done on the guests in scope, so many
times, within the window, without an approval each. It never covers backups.`)
	p := gate.Permit{}
	var actions, tags, ranges words
	f.StringVar(&p.ID, "id", "", "`name` of the permit")
	f.StringVar(&p.Asker, "asker", "reconciler", "`who` may use it")
	f.Var(&actions, "action", "action `kind`; may be given more than once")
	f.Var(&tags, "tag", "guests with this `tag`; may be given more than once")
	f.Var(&ranges, "vmids", "guests in this `range`, 9000-9099; may be given more than once")
	f.IntVar(&p.Count, "count", 1, "how many `times` in all")
	lasting := f.Duration("for", 24*time.Hour, "how `long`, from now on")
	c, err := f.open(args)
	if err != nil {
		return exitError, err
	}
	var st agent.Status
	if err := c.Get(ctx, "/v1/status", &st); err != nil {
		return exitError, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	p.Host, p.Actions, p.NotBefore, p.NotAfter = st.Host, actions, now, now.Add(*lasting)
	if p.Scopes, err = scopes(tags, ranges); err != nil {
		return exitError, err
	}
	text, err := p.Text()
	if err != nil {
		return exitError, err
	}
	_, err = e.stdout.Write(text)
	return exitOK, err
}

func scopes(tags, ranges words) ([]gate.Scope, error) {
	var out []gate.Scope
	for _, t := range tags {
		out = append(out, gate.Scope{Tag: t})
	}
	for _, r := range ranges {
		a, b, ok := strings.Cut(r, "-")
		first, err1 := guest.ParseVMID(a)
		last, err2 := guest.ParseVMID(b)
		if err := errors.Join(err1, err2); !ok || err != nil {
			return nil, fmt.Errorf("%w: %q is no range of VMIDs like 9000-9099", errUsage, r)
		}
		out = append(out, gate.Scope{First: first, Last: last})
	}
	return out, nil
}

func permitAdd(ctx context.Context, e *env, args []string) (int, error) {
	f := newFlags(e, "permit add", "hand in a standing permit: the file with its text, and its signatures.").withJSON()
	var in signing
	in.flags(f)
	rest, err := f.parse(args, 1, 1)
	if err != nil {
		return exitError, err
	}
	text, err := os.ReadFile(rest[0])
	if err != nil {
		return exitError, err
	}
	if in.none() {
		return exitError, fmt.Errorf("%w: who signs it? give --sign-with or --signature", errUsage)
	}
	sigs, err := in.collect(ctx, e, gate.ApprovalNamespace, string(text))
	if err != nil {
		return exitError, err
	}
	c, err := f.client()
	if err != nil {
		return exitError, err
	}
	var p ledger.Permit
	if err := c.Post(ctx, "/v1/permits", control.Signed{Text: string(text), Signatures: sigs}, &p); err != nil {
		return exitError, err
	}
	if f.json {
		return exitOK, printJSON(e.stdout, p)
	}
	fmt.Fprintf(e.stdout, "permit %s holds, signed by %s\n", p.ID, strings.Join(p.Signers, ", "))
	return exitOK, nil
}
