// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package chaos_test

const raceDetector = false
