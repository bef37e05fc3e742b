// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// protectStdout keeps the host's end of standard output for the handshake
// alone: descriptor 1 becomes a second standard error, so that neither a
// library in C nor a child process can write into the handshake. The new
// descriptor is not inherited by children.
func protectStdout() error {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("duplicate descriptor 1: %w", err)
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return fmt.Errorf("redirect descriptor 1: %w", err)
	}
	os.Stdout = os.NewFile(uintptr(fd), "handshake")
	return nil
}

// nameProcess gives the process the name of its executable. A process that was
// executed by descriptor is else called by the descriptor's number.
func nameProcess(name string) {
	// It is for the eyes only: where it does not work, nothing is lost.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}
