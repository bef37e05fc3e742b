// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

const testSecret = "00000000-0000-0000-0000-000000000001"

func TestParseToken(t *testing.T) {
	for _, s := range []string{
		"agent@pve!full=" + testSecret,
		" PVEAPIToken=agent@pve!full=" + testSecret + "\n",
		"root@pam!x1=" + testSecret,
	} {
		tok, err := ParseToken(s)
		if err != nil || !strings.Contains(s, tok.ID()) || *tok.secret != testSecret {
			t.Errorf("ParseToken(%q) = %v, %v", s, tok, err)
		}
	}
	for _, s := range []string{
		"", "agent@pve", "agent@pve!full", "agent@pve=" + testSecret, "agent!full=" + testSecret,
		"agent@pve!full=", "agent@pve!full=" + testSecret + ";x", "agent@pve!full=" + testSecret + "\nX: y",
		"ag/ent@pve!full=" + testSecret, "agent@1!full=" + testSecret,
	} {
		tok, err := ParseToken(s)
		if !errors.Is(err, ErrToken) || !tok.IsZero() {
			t.Errorf("ParseToken(%q) = %v, %v", s, tok, err)
		}
		if err != nil && strings.Contains(err.Error(), testSecret) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
}

func TestTokenKeepsItsSecret(t *testing.T) {
	c, err := New(Options{URL: "https://localhost", Token: testToken(t)})
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", testToken(t), "options", c.opts)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", testToken(t), "client", c)
	inJSON, err := json.Marshal(map[string]any{"t": testToken(t), "o": struct{ T Token }{testToken(t)}})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(inJSON)
	for _, v := range []any{testToken(t), c.opts, c, &c.opts, []Token{testToken(t)}} {
		all += fmt.Sprintf("%v %+v %#v %s %q\n", v, v, v, v, v)
	}
	if strings.Contains(all, testSecret) {
		t.Errorf("the secret is in:\n%s", all)
	}
}
