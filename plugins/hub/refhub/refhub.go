// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package refhub is a small hub, for tests and for people to copy: it serves
// the set of each host from a directory and keeps the reports in files. It does
// not sign: what is to be signed is signed where the keys are, and put there.
//
// It guarantees that a host is given its own directory alone, that a host
// without one is told so (404) instead of being given an empty set, that a set
// is read as it was at one moment, and that a report is on disk before it is
// acknowledged.
package refhub

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/felhom/felhom-agent/pkg/plugin"
	"github.com/felhom/felhom-agent/plugins/internal/carry"
)

// The bounds of what a host may ask for and send.
const (
	maxWait   = time.Minute
	look      = 250 * time.Millisecond // how often a directory is looked at while a host waits
	maxReport = 4 << 20
	maxKept   = 64 << 20 // of one host's reports; then the file is moved to NAME.1
)

// Hub serves hosts. Its fields are set before it is used.
type Hub struct {
	Sets    string // Sets/HOST/*.toml, *.json, felhom.index and their .sig
	Reports string // Reports/HOST.jsonl; "" keeps none and says so
	// Tokens are the bearer tokens, by host.
	Tokens map[string]string
	Logger *slog.Logger

	mu sync.Mutex // one report is written at a time
}

// ServeHTTP implements http.Handler.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hosts/{host}/desired", h.as(h.desired))
	mux.HandleFunc("POST /v1/hosts/{host}/reports", h.as(h.report))
	mux.ServeHTTP(w, r)
}

// as serves only who proves to be the host of the path: by its token, or by a
// client certificate for that name, which the TLS server has verified.
func (h *Hub) as(serve func(w http.ResponseWriter, r *http.Request, host string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host := r.PathValue("host")
		if !carry.IsHost(host) || !(h.hasToken(r, host) || hasCertificate(r, host)) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "this is not the token or certificate of that host", http.StatusUnauthorized)
			return
		}
		serve(w, r, host)
	}
}

func (h *Hub) hasToken(r *http.Request, host string) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want := h.Tokens[host]
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	return ok && want != "" && subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func hasCertificate(r *http.Request, host string) bool {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return false
	}
	return r.TLS.VerifiedChains[0][0].VerifyHostname(host) == nil
}

// desired answers at once with what the host does not have yet, or waits as
// long as it allows for something new.
func (h *Hub) desired(w http.ResponseWriter, r *http.Request, host string) {
	deadline := time.Now().Add(wait(r))
	for {
		files, err := h.read(host)
		if err != nil {
			h.fail(w, host, err)
			return
		}
		tag := `"` + carry.Revision(files) + `"`
		if r.Header.Get("If-None-Match") != tag {
			h.send(w, tag, files)
			return
		}
		if !time.Now().Before(deadline) || !carry.Sleep(r.Context(), look) {
			w.Header().Set("ETag", tag)
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
}

// wait reads "Prefer: wait=SECONDS" (RFC 7240).
func wait(r *http.Request) time.Duration {
	for _, p := range strings.Split(r.Header.Get("Prefer"), ",") {
		if n, ok := strings.CutPrefix(strings.TrimSpace(p), "wait="); ok {
			if s, err := strconv.Atoi(n); err == nil && s > 0 {
				return min(time.Duration(s)*time.Second, maxWait)
			}
		}
	}
	return 0
}

func (h *Hub) fail(w http.ResponseWriter, host string, err error) {
	h.Logger.Warn("set not served", "host", host, "error", err)
	if errors.Is(err, fs.ErrNotExist) {
		http.Error(w, "there is no set for this host", http.StatusNotFound)
		return
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func (h *Hub) send(w http.ResponseWriter, tag string, files []plugin.File) {
	b, err := carry.Encode(files)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("ETag", tag)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // who is gone asks again
}

// read reads a host's directory until two readings agree.
func (h *Hub) read(host string) ([]plugin.File, error) {
	for range 10 {
		a, err := readDir(filepath.Join(h.Sets, host))
		if err != nil {
			return nil, err
		}
		b, err := readDir(filepath.Join(h.Sets, host))
		if err != nil {
			return nil, err
		}
		if carry.Revision(a) == carry.Revision(b) {
			return a, nil
		}
	}
	return nil, errors.New("the set changes all the time")
}

func readDir(dir string) ([]plugin.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	var files []plugin.File
	for _, e := range entries {
		name := e.Name()
		if !e.Type().IsRegular() || strings.HasPrefix(name, ".") ||
			!slices.Contains([]string{".toml", ".json", ".index"}, filepath.Ext(name)) {
			continue
		}
		f := plugin.File{Name: name}
		if f.Data, err = root.ReadFile(name); err != nil {
			return nil, err
		}
		sig, err := root.ReadFile(name + ".sig")
		if err == nil {
			f.Signatures = split(string(sig))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// split takes the signatures of several signers apart.
func split(sig string) [][]byte {
	const end = "-----END SSH SIGNATURE-----\n"
	var all [][]byte
	for s := range strings.SplitAfterSeq(sig, end) {
		if strings.TrimSpace(s) != "" {
			all = append(all, []byte(strings.TrimLeft(s, "\n")))
		}
	}
	return all
}

// report keeps a report: one line of JSON.
func (h *Hub) report(w http.ResponseWriter, r *http.Request, host string) {
	if h.Reports == "" {
		http.Error(w, "this hub keeps no reports", http.StatusNotImplemented)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReport))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		http.Error(w, "the report is too long", http.StatusRequestEntityTooLarge)
		return
	}
	var told plugin.ReportBody
	if err == nil {
		err = json.Unmarshal(body, &told)
	}
	if err != nil || told.Host != "" && told.Host != host {
		http.Error(w, "this is not a report of that host", http.StatusBadRequest)
		return
	}
	if err := h.keep(r.Context(), host, told); err != nil {
		h.Logger.Error("report not kept", "host", host, "error", err)
		http.Error(w, "the report could not be kept", http.StatusInsufficientStorage)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Hub) keep(_ context.Context, host string, told plugin.ReportBody) error {
	line, err := json.Marshal(told)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	path := filepath.Join(h.Reports, host+".jsonl")
	if info, err := os.Stat(path); err == nil && info.Size() > maxKept {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}

// ReadTokens reads a file of tokens: "HOST TOKEN" on each line, # begins a
// comment.
func ReadTokens(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		f := strings.Fields(line)
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 2 || !carry.IsHost(f[0]) || len(f[1]) < 16 || all[f[0]] != "" {
			return nil, fmt.Errorf("%s:%d: want HOST TOKEN, each host once, a token of at least 16 characters", path, n)
		}
		all[f[0]] = f[1]
	}
	return all, nil
}
