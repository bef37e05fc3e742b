// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

//go:build !race

package hookserver

// raceDetector: the runtime of Go 1.26 crashes now and then when the race
// detector watches timers of many TLS connections in a synctest bubble. What
// needs that runs without it, in `make test` too.
const raceDetector = false
