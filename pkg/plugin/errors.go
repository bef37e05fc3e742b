// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package plugin

import "errors"

// The error kinds that survive the wire.
var (
	// ErrInvalid: the request makes no sense; nothing was sent to PVE.
	ErrInvalid = errors.New("invalid request")
	// ErrUnsupported: this plugin does not do that; nothing was sent.
	ErrUnsupported = errors.New("not supported by this plugin")
	// ErrNotSent: the action was not sent (PVE not reachable, ...).
	ErrNotSent = errors.New("not sent")
	// ErrUnavailable: a read could not be answered now; try again.
	ErrUnavailable = errors.New("not available now")
	// ErrDenied: PVE denied it (401, 403), with its words in the error's text.
	ErrDenied = errors.New("permission denied")
	// ErrShutdown: the plugin process is gone.
	ErrShutdown = errors.New("plugin is gone")
)
