// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Package torture proves that nothing is forgotten and nothing is done twice (P2, P3): it runs the agent, whole or in
// parts, against the simulated node, breaks what can break, and judges what is left.
//
// A scenario is a test that prints one [Row] for each thing it tried. Without FELHOM_TORTURE a scenario tries a sample;
// "quick" is a smaller one, "full" tries everything. [Judge] holds the simulated node's own record of what it executed
// against the journal:
//
//	lost     something acknowledged is not in the journal, or the node did something the journal knows nothing of
//	doubled  an operation was executed more than once, or after the agent took it for not sent
//	stuck    an operation has no end, a guest differs and nothing says why, or the journal cannot be used
//
// The command cmd/torture runs all scenarios, those of packages journal and queue included, and prints one table.
package torture
