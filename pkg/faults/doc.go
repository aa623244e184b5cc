// Package faults models an upstream that misbehaves, without HTTP.
//
// A [Spec] says how often and in which way calls fail; it is the faults document of flaky-server.
// An [Injector] decides the fate of each arrival from it, reproducibly. A [Queue] models the
// capacity of the upstream: a few workers, and a queue of limited length. Its work continues after
// the caller has given up, which is what turns a slow service into a dead one.
//
// All time comes from package time, so it runs on the virtual clock of testing/synctest.
package faults
