// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package replay

// raceEnabled: the race detector makes everything several times slower.
const raceEnabled = true
