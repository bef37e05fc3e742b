// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package conf

// The parameters of a create request besides the config keys.
var (
	lxcCreateParams = map[string]param{
		"ostemplate":           {rule: text().upTo(255), required: true},
		"password":             {rule: atLeast(5)},
		"storage":              {rule: formatted(storageID)},
		"force":                {rule: boolean()},
		"restore":              {rule: boolean()},
		"unique":               {rule: boolean(), requires: "restore"},
		"pool":                 {rule: formatted(poolID)},
		"ignore-unpack-errors": {rule: boolean()},
		"ssh-public-keys":      {rule: text()},
		"bwlimit":              {rule: decimal(0)},
		"start":                {rule: boolean()},
		"ha-managed":           {rule: boolean()},
	}
	qemuCreateParams = map[string]param{
		"archive":                {rule: text().upTo(255)},
		"storage":                {rule: formatted(storageID)},
		"force":                  {rule: boolean(), requires: "archive"},
		"unique":                 {rule: boolean(), requires: "archive"},
		"live-restore":           {rule: boolean()},
		"pool":                   {rule: formatted(poolID)},
		"bwlimit":                {rule: integer(0)},
		"start":                  {rule: boolean()},
		"import-working-storage": {rule: formatted(storageID)},
		"ha-managed":             {rule: boolean()},
	}
)

var poolID = matches(`[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}`, "value does not look like a valid pool name")
