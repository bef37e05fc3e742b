// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package replay

const raceEnabled = false
