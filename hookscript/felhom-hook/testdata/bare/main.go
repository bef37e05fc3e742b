// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

// Command bare does nothing: it is what the start of a static Go program
// costs, which the benchmarks of the hook helper are measured against.
package main

import "os"

func main() { os.Exit(0) }
