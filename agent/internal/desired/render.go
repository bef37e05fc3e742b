// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// TOML writes the set as one document that Parse reads as the same guests with
// the same revisions. It holds secrets in clear: it is not for logs or reports.
func (s *Set) TOML() ([]byte, error) {
	var b bytes.Buffer
	enc := toml.NewEncoder(&b)
	enc.Indent = ""
	if err := enc.Encode(s.document()); err != nil {
		return nil, fmt.Errorf("desired: write as TOML: %w", err)
	}
	if b.Len() == 0 {
		return []byte("# no guests\n"), nil
	}
	return b.Bytes(), nil
}

// JSON is TOML in the other format.
func (s *Set) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(s.document(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("desired: write as JSON: %w", err)
	}
	return append(data, '\n'), nil
}

// document is the set in the words of the document format.
func (s *Set) document() map[string]any {
	doc := map[string]any{}
	putText(doc, "issuer", s.Issuer)
	putText(doc, "host", s.Host)
	if s.Serial > 0 {
		doc["serial"] = s.Serial
	}
	if !s.NotAfter.IsZero() {
		doc["not_after"] = s.NotAfter
	}
	guests := map[string]any{}
	for id, g := range s.Guests {
		guests[id.String()] = g.document()
	}
	if len(guests) > 0 {
		doc["guest"] = guests
	}
	return doc
}

func putText(doc map[string]any, key, value string) {
	if value != "" {
		doc[key] = value
	}
}

func (g *Guest) document() map[string]any {
	doc := map[string]any{"kind": string(g.Kind)}
	putText(doc, "mode", string(g.Mode))
	putText(doc, "run", string(g.Run))
	putText(doc, "stop", string(g.Stop))
	putText(doc, "ha", g.HA)
	if g.StopTimeout > 0 {
		doc["stop_timeout"] = g.StopTimeout.Truncate(time.Second).String()
	}
	if len(g.Delete) > 0 {
		doc["delete"] = g.Delete
	}
	if len(g.Ignore) > 0 {
		doc["ignore"] = g.Ignore
	}
	if m := g.manualDocument(); m != nil {
		doc["on_manual_change"] = m
	}
	g.configDocument(doc)
	disk := map[string]any{}
	for key, size := range g.Disks {
		disk[key] = strconv.FormatInt(size>>10, 10) + "KiB"
	}
	if len(disk) > 0 {
		doc["disk"] = disk
	}
	if g.Provision != nil {
		doc["provision"] = g.Provision.document()
	}
	return doc
}

// configDocument writes each config key where the format wants it.
func (g *Guest) configDocument(doc map[string]any) {
	config := map[string]any{}
	for key, value := range g.Config {
		switch key {
		case "cores":
			n, _ := strconv.ParseInt(value, 10, 64)
			doc[key] = n
		case "memory", "swap":
			doc[key] = value + "MiB"
		case "tags":
			doc[key] = strings.Split(value, ";")
		case "onboot":
			doc[key] = value == "1"
		default:
			if own(key) {
				doc[key] = value
			} else {
				config[key] = value
			}
		}
	}
	if len(config) > 0 {
		doc["config"] = config
	}
}

// manualDocument is on_manual_change, nil if it says nothing.
func (g *Guest) manualDocument() any {
	if len(g.OnManual) == 0 {
		if g.OnManualDefault == "" {
			return nil
		}
		return string(g.OnManualDefault)
	}
	doc := map[string]any{}
	for key, what := range g.OnManual {
		doc[key] = string(what)
	}
	if g.OnManualDefault != "" {
		doc[manualConfig] = string(g.OnManualDefault)
		doc[RunField] = string(g.Manual(RunField))
	}
	return doc
}

func (p *Provision) document() map[string]any {
	doc := map[string]any{}
	putText(doc, "template", p.Template)
	putText(doc, "backup", p.Backup)
	putText(doc, "storage", p.Storage)
	if p.Clone != 0 {
		doc["clone"] = int(p.Clone)
	}
	if len(p.Config) > 0 {
		doc["config"] = map[string]string(p.Config)
	}
	return doc
}
