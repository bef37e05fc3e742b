// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/felhom/felhom-agent/agent/internal/config"
	"github.com/felhom/felhom-agent/agent/internal/fsys"
	"github.com/felhom/felhom-agent/agent/internal/journal"
	"github.com/felhom/felhom-agent/agent/internal/ledger"
	"github.com/felhom/felhom-agent/agent/internal/reporter"
)

// heartbeat is how often a source hears from the agent though nothing happens.
const heartbeat = time.Minute

func (a *Agent) newReporter() *reporter.Reporter {
	return reporter.New(reporter.Options{
		Host: a.opt.Host, Version: a.opt.Version, Logger: a.log, Heartbeat: heartbeat,
		Since: a.led.Since, Read: a.readJournal, Head: a.jrn.Head, Desired: a.led.Desired, Op: a.led.Op,
		Status: a.eng.Status, Send: a.host.Report,
		Marks: fileMarks{fs: fsys.OS{}, dir: filepath.Join(a.cfg.Agent.StateDir, "reported")},
	}, providerNames(a.cfg))
}

func providerNames(c config.Config) []string {
	var all []string
	for _, p := range c.Providers {
		all = append(all, p.Name)
	}
	return all
}

// readJournal reads what is no longer in memory.
func (a *Agent) readJournal(after uint64, yield func(ledger.Entry) bool) error {
	dir := filepath.Join(a.cfg.Agent.StateDir, "journal")
	var bad error
	err := journal.Read(fsys.OS{}, dir, after+1, func(e journal.Entry, _ journal.Frame) bool {
		r, err := ledger.Decode(e.Payload)
		if err != nil {
			bad = err
			return false
		}
		return yield(ledger.Entry{Seq: e.Seq, Time: e.Time, Record: r})
	})
	return errors.Join(err, bad)
}

// fileMarks keeps how far each provider's source was told in a file of its own.
type fileMarks struct {
	fs  fsys.FS
	dir string
}

const maxMark = 4 << 20

func (m fileMarks) path(provider string) string { return filepath.Join(m.dir, provider+".json") }

// Load reads the provider's file.
func (m fileMarks) Load(provider string) (told reporter.Mark, ok bool, err error) {
	b, err := fsys.ReadFile(m.fs, "REPORTED", m.path(provider), maxMark)
	if errors.Is(err, fs.ErrNotExist) {
		return told, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &told)
	}
	return told, err == nil, err
}

// Save replaces the provider's file.
func (m fileMarks) Save(provider string, told reporter.Mark) error {
	b, err := json.Marshal(told)
	if err != nil {
		return err
	}
	if err := m.fs.MkdirAll("REPORTED", m.dir, 0o700); err != nil {
		return err
	}
	return fsys.WriteFileAtomic(m.fs, "REPORTED", m.path(provider), b, 0o600)
}
