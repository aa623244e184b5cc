// Package flaky is an upstream over HTTP and gRPC that misbehaves on demand. It follows the faults
// document of package faults: it answers with errors, resets connections, truncates answers, hangs,
// answers slowly, and overloads.
//
// Its ledger records how often each order really took effect, so that a retry that executes an
// order twice is visible.
package flaky
