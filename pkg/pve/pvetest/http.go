// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pvetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/felhom/felhom-agent/pkg/pve/pvetest/internal/schema"
)

const (
	maxBody      = 512 << 10
	proxyTimeout = 30 * time.Second // pveproxy's patience with pvedaemon
	authDelay    = 3 * time.Second  // before every 401
)

// reply is a finished answer, before its headers.
type reply struct {
	status      int
	reason      string
	contentType string
	disposition string
	body        []byte
	drop        bool // close the connection without an answer
}

// ServeHTTP answers one request as pveproxy would.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	rep := s.answer(r)
	s.log.Info("request", "method", r.Method, "path", r.URL.Path, "status", rep.status,
		"reason", rep.reason, "ms", time.Since(begin).Milliseconds())
	s.write(w, r, rep)
}

func (s *Sim) answer(r *http.Request) reply {
	format, path, ok := splitFormat(r.URL.Path)
	if rep, bad := s.refuseTransport(r); bad {
		return rep
	}
	if !ok {
		return failText(501, fmt.Sprintf("no such file '%s'", r.URL.Path))
	}
	in, rep, ok := s.readParams(r)
	if !ok {
		return rep
	}
	res, err := s.serveCall(r, path, in)
	if format == "extjs" {
		return extjsReply(res, err)
	}
	return jsonReply(res, err)
}

// splitFormat separates the output format from the path of the API.
func splitFormat(p string) (format, path string, ok bool) {
	rest, ok := strings.CutPrefix(p, "/api2/")
	if !ok {
		return "", "", false
	}
	format, path, _ = strings.Cut(rest, "/")
	return format, "/" + path, format == "json" || format == "extjs"
}

func (s *Sim) refuseTransport(r *http.Request) (reply, bool) {
	switch r.Method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		return reply{status: 501, reason: fmt.Sprintf("method '%s' not available", r.Method)}, true
	}
	if len(r.TransferEncoding) > 0 {
		return failText(501, "chunked transfer encoding not supported"), true
	}
	if r.ContentLength > maxBody {
		return failText(501, "for data too large"), true
	}
	if r.ContentLength > 0 && (r.Method == http.MethodGet || r.Method == http.MethodDelete) {
		return failText(501, fmt.Sprintf("Unexpected content for method '%s'", r.Method)), true
	}
	return reply{}, false
}

// failText is an error before the API proper: the reason is the body too.
func failText(status int, reason string) reply {
	return reply{status: status, reason: reason, body: []byte(reason)}
}

// result is what a call gave: data for the envelope, or an answer of its own.
type result struct {
	data  any
	total *int
	raw   *rawBody
	drop  bool
}

func (s *Sim) serveCall(r *http.Request, path string, in schema.Values) (result, error) {
	rt, vals := s.routes.find(r.Method, path)
	auth, err := s.authenticate(r, rt)
	if err != nil {
		sleep(r.Context(), authDelay)
		return result{}, err
	}
	if rt == nil {
		return result{}, &apiError{
			status: 501, message: fmt.Sprintf("Method '%s %s' not implemented", r.Method, path),
			reason: fmt.Sprintf("Method '%s %s' not implemented", r.Method, path),
		}
	}
	c := &call{sim: s, ctx: s.ctx, authid: auth, uri: path, path: vals, in: in}
	for name, v := range vals {
		if sent, ok := in[name]; ok && sent.S != v {
			return result{}, badParam(name, "duplicate parameter (already defined in URI) with conflicting values!")
		}
		in[name] = schema.Value{S: v}
	}
	return s.run(r, rt, c)
}

// run performs the call, with its faults, in its own goroutine when it is one
// of pvedaemon's: the work goes on when the proxy or the client gives up.
func (s *Sim) run(r *http.Request, rt *route, c *call) (result, error) {
	flt := s.faultFor(r.Method, c.uri)
	if rep, err, ok := flt.before(r.Context()); ok {
		return rep, err
	}
	type outcome struct {
		res result
		err error
	}
	done := make(chan outcome, 1)
	ok := s.spawn(func() {
		res, err := s.perform(rt, c, flt)
		done <- outcome{res, err}
	})
	if !ok {
		return result{drop: true}, nil
	}
	patience, stop := flt.patience(rt.protected)
	defer stop()
	select {
	case o := <-done:
		return flt.after(o.res), o.err
	case <-patience:
		if flt.dropsReply() {
			return result{drop: true}, nil
		}
		return result{}, &apiError{status: 596, reason: "Connection timed out", bare: true}
	case <-r.Context().Done():
		return result{drop: true}, nil
	}
}

func (s *Sim) perform(rt *route, c *call, flt *Fault) (result, error) {
	if !flt.hold(s.ctx) {
		return result{drop: true}, nil
	}
	if err := s.admit(rt, c); err != nil {
		return result{}, err
	}
	if rt.protected {
		select {
		case s.workers <- struct{}{}:
			defer func() { <-s.workers }()
		case <-s.ctx.Done():
			return result{drop: true}, nil
		}
	}
	if err := s.checkParams(rt, c); err != nil {
		return result{}, err
	}
	data, err := rt.run(c)
	return result{data: data, total: c.total, raw: c.raw}, err
}

// admit is what pveproxy checks: token allowed, permission, node.
func (s *Sim) admit(rt *route, c *call) error {
	if rt.noToken && strings.Contains(c.authid, "!") {
		return denied("URI '%s' not available with API token, need proper ticket.\n", c.uri)
	}
	if rt.perm != nil && c.authid != "root@pam" {
		if err := rt.perm(c); err != nil {
			return err
		}
	}
	if node, ok := c.path["node"]; ok && node != s.opt.Node && node != "localhost" {
		if err := s.otherNode(node); err != nil {
			return err
		}
		why := "Name or service not known"
		if s.opt.Lacks.DNS {
			why = "Temporary failure in name resolution"
		}
		return die("hostname lookup '%s' failed - failed to get address info for: %s: %s", node, node, why)
	}
	return nil
}

func (s *Sim) checkParams(rt *route, c *call) error {
	params := append(pathParams(rt.path), rt.params...)
	var extra func(string) bool
	if rt.extra != nil {
		extra = func(name string) bool { return rt.extra(c, name) }
	}
	errs := schema.Check(params, c.in, extra)
	if rt.also != nil {
		maps.Copy(errs, rt.also(c))
	}
	if len(errs) > 0 {
		return badParams(errs)
	}
	return nil
}

func jsonReply(res result, err error) reply {
	if res.drop {
		return reply{drop: true}
	}
	if err != nil {
		return errorReply(err)
	}
	if res.raw != nil {
		return reply{
			status: 200, reason: "OK", contentType: res.raw.contentType,
			disposition: res.raw.disposition, body: res.raw.body,
		}
	}
	if raw, ok := res.data.(rawData); ok {
		return reply{status: 200, reason: "OK", contentType: "application/json;charset=UTF-8", body: raw}
	}
	env := map[string]any{"data": res.data}
	if res.total != nil {
		env["total"] = *res.total
	}
	return reply{status: 200, reason: "OK", contentType: "application/json;charset=UTF-8", body: encode(env)}
}

func errorReply(err error) reply {
	var ae *apiError
	if !errors.As(err, &ae) {
		ae = &apiError{status: 500, reason: err.Error()}
	}
	first, _, _ := strings.Cut(ae.reason, "\n")
	rep := reply{status: ae.status, reason: first}
	switch {
	case ae.bare:
		return rep
	case ae.plain:
		rep.body = []byte(ae.reason)
		return rep
	}
	msg := ae.message
	if msg == "" {
		msg = ae.reason + "\n"
	}
	env := map[string]any{"data": nil, "message": msg}
	if len(ae.params) > 0 {
		env["errors"] = ae.params
	}
	rep.contentType, rep.body = "application/json;charset=UTF-8", encode(env)
	return rep
}

// extjsReply is the web interface's envelope: always 200.
func extjsReply(res result, err error) reply {
	if res.drop {
		return reply{drop: true}
	}
	if raw, ok := res.data.(rawData); ok {
		res.data = raw.data()
	}
	env := map[string]any{"success": 1, "data": res.data}
	if res.total != nil {
		env["total"] = *res.total
	}
	var ae *apiError
	if err != nil && !errors.As(err, &ae) {
		ae = &apiError{status: 500, reason: err.Error()}
	}
	if ae != nil {
		if ae.status == 401 {
			return errorReply(ae)
		}
		env = map[string]any{"success": 0, "data": nil, "message": ae.reason + "\n", "status": ae.status}
		if len(ae.params) > 0 {
			env["errors"] = ae.params
		}
	}
	return reply{status: 200, reason: "OK", contentType: "application/json;charset=UTF-8", body: encode(env)}
}

// encode prints JSON as PVE does: no escaping of <, > and &.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("pvetest: answer cannot be encoded: %v", err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// readParams reads query and body. The query wins over the body.
func (s *Sim) readParams(r *http.Request) (schema.Values, reply, bool) {
	in := schema.Values{}
	if r.ContentLength > 0 {
		body := make([]byte, r.ContentLength)
		if _, err := readFull(r.Body, body); err != nil {
			return nil, reply{drop: true}, false
		}
		ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
		switch strings.TrimSpace(ct) {
		case "application/json":
			if rep, ok := jsonParams(s.major, body, in); !ok {
				return nil, rep, false
			}
		case "", "application/x-www-form-urlencoded":
			formParams(string(body), in)
		default:
			return nil, failText(506, fmt.Sprintf("upload '%s' not allowed", r.URL.Path)), false
		}
	}
	query := schema.Values{}
	formParams(r.URL.RawQuery, query)
	for k, v := range query {
		in[k] = v
	}
	return in, reply{}, true
}

// formParams reads form encoding as Perl's URI unescaping does: bytes that
// are no UTF-8 are taken as Latin-1.
func formParams(s string, in schema.Values) {
	for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '&' || r == ';' }) {
		k, v, _ := strings.Cut(part, "=")
		k, v = unescape(k), unescape(v)
		if old, ok := in[k]; ok {
			in[k] = schema.Value{S: old.S + "\x00" + v, Kind: "ARRAY"}
			continue
		}
		in[k] = schema.Value{S: v}
	}
}

func unescape(s string) string {
	u, err := url.QueryUnescape(s)
	if err != nil {
		return s
	}
	return toUTF8(u)
}

// jsonParams reads a JSON object of parameters.
func jsonParams(major int, body []byte, in schema.Values) (reply, bool) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		rep := failText(500, perlJSONError(major, body))
		rep.body = append(rep.body, '\n') // the text is a Perl exception's
		return rep, false
	}
	for k, v := range m {
		in[k] = jsonValue(v)
	}
	return reply{}, true
}

func jsonValue(v any) schema.Value {
	switch v := v.(type) {
	case string:
		return schema.Value{S: v}
	case bool:
		if v {
			return schema.Value{S: "1"}
		}
		return schema.Value{S: "0"}
	case json.Number:
		return schema.Value{S: v.String()}
	case map[string]any:
		return schema.Value{Kind: "HASH"}
	case []any:
		return schema.Value{Kind: "ARRAY"}
	}
	return schema.Value{}
}

// write sends the answer. A reason that net/http cannot send, and every
// error, goes out by hand and closes the connection, as pveproxy does.
func (s *Sim) write(w http.ResponseWriter, r *http.Request, rep reply) {
	if rep.drop {
		dropConn(w)
		return
	}
	h := s.headers(r, &rep)
	hj, ok := w.(http.Hijacker)
	if ok && (rep.status >= 400 || rep.contentType == "") {
		writeRaw(hj, rep, h)
		return
	}
	for k, v := range h {
		w.Header()[k] = v
	}
	w.WriteHeader(rep.status)
	_, _ = w.Write(rep.body) // a client that went away is its own problem
}

func (s *Sim) headers(r *http.Request, rep *reply) http.Header {
	date := s.now().UTC().Format(http.TimeFormat)
	h := http.Header{
		"Cache-Control": {"max-age=0"}, "Pragma": {"no-cache"}, "Server": {"pve-api-daemon/3.0"},
		"Date": {date}, "Expires": {date}, "Connection": {"Keep-Alive"},
	}
	if r.Close || rep.status >= 400 {
		h.Set("Connection", "close")
	}
	if rep.contentType != "" {
		h.Set("Content-Type", rep.contentType)
	}
	if rep.disposition != "" {
		h.Set("Content-Disposition", rep.disposition)
	}
	if len(rep.body) > 1024 && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") && rep.status < 400 {
		rep.body = gzipped(rep.body)
		h.Set("Content-Encoding", "gzip")
	}
	if len(rep.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(rep.body)))
	}
	return h
}

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	_, _ = zw.Write(b) // a bytes.Buffer does not fail
	_ = zw.Close()
	return buf.Bytes()
}

func dropConn(w http.ResponseWriter) {
	if hj, ok := w.(http.Hijacker); ok {
		if conn, _, err := hj.Hijack(); err == nil {
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}

// writeRaw writes an answer with its own reason phrase and closes.
func writeRaw(hj http.Hijacker, rep reply, h http.Header) {
	conn, buf, err := hj.Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	h.Set("Connection", "close")
	_, _ = fmt.Fprintf(buf, "HTTP/1.1 %d %s\r\n", rep.status, rep.reason)
	_ = h.Write(buf)
	_, _ = buf.WriteString("\r\n")
	_, _ = buf.Write(rep.body)
	_ = buf.Flush()
	closeWrite(conn)
}

// cancelled reports whether ctx has ended.
func cancelled(ctx context.Context) bool { return ctx.Err() != nil }
