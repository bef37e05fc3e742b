// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
)

// Config is what the host hands to a plugin after the handshake and before
// anything else: the table "config" of its manifest, and the secrets that the
// manifest names.
type Config struct {
	// JSON is one JSON object. Empty means "{}".
	JSON    []byte
	Secrets map[string]Secret
}

// Secret is a value that must not be seen: printing, logging or marshalling
// it shows a mask. Reveal returns the value.
type Secret string

const mask = "[secret]"

// Reveal returns the value itself.
func (s Secret) Reveal() string { return string(s) }

// String is the mask.
func (s Secret) String() string { return mask }

// GoString is the mask.
func (s Secret) GoString() string { return mask }

// MarshalText gives the mask.
func (s Secret) MarshalText() ([]byte, error) { return []byte(mask), nil }

// LogValue is the mask.
func (s Secret) LogValue() slog.Value { return slog.StringValue(mask) }

// Configurer is the optional interface of an executor, observer or provider
// that takes a configuration. Configure is called once, before any other
// method. An error is shown to the operator and the plugin is not used; it
// should say which key is wrong and why.
type Configurer interface {
	Configure(ctx context.Context, c Config) error
}

// Decode writes the configuration into v, a pointer to a struct with json
// tags, as encoding/json does. A key that v does not have and a value of a
// wrong type are errors of kind ErrInvalid which name the key.
func (c Config) Decode(v any) error {
	dec := json.NewDecoder(bytes.NewReader(c.object()))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: config: %w", ErrInvalid, err)
	}
	if dec.More() {
		return fmt.Errorf("%w: config: more than one JSON value", ErrInvalid)
	}
	return nil
}

func (c Config) object() []byte {
	if len(bytes.TrimSpace(c.JSON)) == 0 {
		return []byte("{}")
	}
	return c.JSON
}

// empty reports whether there is nothing in c. What is not an object counts
// as something.
func (c Config) empty() bool {
	var keys map[string]json.RawMessage
	err := json.Unmarshal(c.object(), &keys)
	return err == nil && len(keys) == 0 && len(c.Secrets) == 0
}
