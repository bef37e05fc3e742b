// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"strings"

	"github.com/felhom/felhom-agent/agent/internal/ledger"
)

const (
	// maxWords bounds what is kept of a plugin's words, in bytes.
	maxWords = 16 << 10
	// maxRecorded bounds what it may record beside them. A record that the
	// journal does not take would leave its op open for good.
	maxRecorded = 1 << 20
)

// clip cuts words that are too long.
func clip(s string) string {
	if len(s) <= maxWords {
		return s
	}
	return strings.ToValidUTF8(s[:maxWords], "") + " (and more)"
}

// bound makes a step fit for the journal, whatever a plugin has put in it.
func bound(st *ledger.Step) {
	st.Message = clip(st.Message)
	b, err := json.Marshal([]any{st.Undo, st.Made})
	if err != nil || len(b) > maxRecorded {
		st.Undo, st.Made = nil, nil
		st.Message += " (what its plugin recorded is too long to be kept)"
	}
}
