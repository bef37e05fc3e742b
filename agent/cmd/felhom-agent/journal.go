// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
)

// cmdJournal works on the journal's files: it needs no running agent and may
// run beside one.
func cmdJournal(_ context.Context, e *env, args []string) (int, error) {
	if len(args) > 0 {
		switch args[0] {
		case "check":
			return journalCheck(e, args[1:])
		case "show":
			return journalShow(e, args[1:])
		case "export":
			return journalExport(e, args[1:])
		case "verify":
			return journalVerify(e, args[1:])
		}
	}
	return exitUsage, fmt.Errorf("%w: want `felhom-agent journal check`, `show`, `export` or `verify`", errUsage)
}

// journalDir is the directory of the journal that the configuration names.
func (f *flags) journalDir() (string, error) {
	cfg, err := config.Load(f.config)
	if err != nil {
		return "", err
	}
	return filepath.Join(cfg.Agent.StateDir, "journal"), nil
}

func journalCheck(e *env, args []string) (int, error) {
	f := newFlags(e, "journal check", "verify everything that is kept: frames, batches, the hash chain, snapshots.\nExit status: 0 sound, 1 damaged.").withJSON()
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	dir, err := f.journalDir()
	if err != nil {
		return exitError, err
	}
	rep, err := journal.Check(fsys.OS{}, dir)
	if err != nil {
		return exitError, err
	}
	code := exitOK
	if !rep.OK() {
		code = exitError
	}
	if f.json {
		return code, printJSON(e.stdout, rep)
	}
	for _, n := range rep.Notes {
		fmt.Fprintln(e.stdout, "note:", n)
	}
	for _, p := range rep.Problems {
		fmt.Fprintln(e.stdout, e.style.red("problem:"), p)
	}
	fmt.Fprintf(e.stdout, "journal of %s: %d entries from %d on verified, head %d %s\n", rep.Host, rep.Entries, rep.First, rep.Head.Seq, rep.Head.Hash)
	return code, nil
}

func journalShow(e *env, args []string) (int, error) {
	f := newFlags(e, "journal show", "tell what the journal holds, oldest first.").withJSON()
	id := f.String("guest", "", "only what is about this `guest`")
	opID := f.String("op", "", "only what is about this `op` (a prefix will do)")
	since := f.Duration("since", 0, "only the last `duration`, for example 24h")
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	fl := filter{op: *opID}
	if *since > 0 {
		fl.since = time.Now().Add(-*since)
	}
	if *id != "" {
		ids, err := guests([]string{*id})
		if err != nil {
			return exitUsage, err
		}
		fl.guest = ids[0]
	}
	dir, err := f.journalDir()
	if err != nil {
		return exitError, err
	}
	var bad error
	err = journal.Read(fsys.OS{}, dir, 0, func(en journal.Entry, _ journal.Frame) bool {
		bad = show(e, f.json, &fl, en)
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return exitOK, err
}

func show(e *env, asJSON bool, fl *filter, en journal.Entry) error {
	r, err := ledger.Decode(en.Payload)
	if err != nil {
		return fmt.Errorf("entry %d: %w", en.Seq, err)
	}
	takes, note := fl.takes(en, r)
	if !takes {
		return nil
	}
	le := ledger.Entry{Seq: en.Seq, Time: en.Time, Record: r}
	if asJSON {
		return printLine(e.stdout, le)
	}
	writeEvent(e, le, note)
	return nil
}

func journalExport(e *env, args []string) (int, error) {
	f := newFlags(e, "journal export", "write a range of the journal to standard output, in a form that\n`felhom-agent journal verify` proves without the journal.")
	var r journal.Range
	f.Uint64Var(&r.From, "from", 1, "first `entry` with its content")
	f.Uint64Var(&r.To, "to", 0, "last `entry` with its content (0: the head)")
	f.Uint64Var(&r.First, "first", 0, "first `entry` of which only the hash is exported")
	f.Uint64Var(&r.Last, "last", 0, "last `entry` of which only the hash is exported (0: the head)")
	if _, err := f.parse(args, 0, 0); err != nil {
		return exitUsage, err
	}
	dir, err := f.journalDir()
	if err != nil {
		return exitError, err
	}
	return exitOK, journal.Export(fsys.OS{}, dir, r, e.stdout)
}

func journalVerify(e *env, args []string) (int, error) {
	f := newFlags(e, "journal verify", "prove an exported range. Heads noted elsewhere are given as SEQ:HASH.")
	rest, err := f.parse(args, 1, -1)
	if err != nil {
		return exitUsage, err
	}
	known, err := heads(rest[1:])
	if err != nil {
		return exitUsage, err
	}
	in, err := os.Open(rest[0])
	if err != nil {
		return exitError, err
	}
	defer in.Close()
	v, err := journal.VerifyExport(in, known, func(journal.Entry) {})
	if err != nil {
		return exitError, err
	}
	for _, line := range v.Proves {
		fmt.Fprintln(e.stdout, e.style.green("proven:"), line)
	}
	for _, line := range v.Unknown {
		fmt.Fprintln(e.stdout, "not proven:", line)
	}
	return exitOK, nil
}

func heads(args []string) ([]journal.Head, error) {
	var out []journal.Head
	for _, a := range args {
		seq, hash, _ := strings.Cut(a, ":")
		n, err := strconv.ParseUint(seq, 10, 64)
		raw, herr := hex.DecodeString(hash)
		if err != nil || herr != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%w: %q is not SEQ:HASH, an entry's number and its hash of %d digits", errUsage, a, 2*sha256.Size)
		}
		out = append(out, journal.Head{Seq: n, Hash: strings.ToLower(hash)})
	}
	return out, nil
}
