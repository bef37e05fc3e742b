// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build race

package chaos_test

// raceDetector: this program starts several times slower, and as a plugin it
// starts a hundred times.
const raceDetector = true
