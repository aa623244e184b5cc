// Package flaky is an HTTP upstream that misbehaves on demand: by the faults document of package faults, it
// answers errors, resets connections, cuts answers short, hangs, dawdles, and works itself to death.
//
// It also keeps the evidence. Its ledger tells how often each order really took effect, so that a retry which
// executes something twice shows.
package flaky
