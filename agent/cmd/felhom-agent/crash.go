// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"sync"
	"syscall"
)

// crasher kills this process with SIGKILL, as a power cut or an OOM kill
// would, when point comes by for the n-th time.
func crasher(point string, n int) func(string) {
	var mu sync.Mutex
	return func(p string) {
		if p != point {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal comes
		}
	}
}
