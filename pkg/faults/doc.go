// Package faults models an upstream that misbehaves, without any HTTP.
//
// A [Spec] says how often and in which way calls go wrong; it is the faults document of flaky-server. An
// [Injector] decides from it, reproducibly, what happens to each arrival. A [Queue] is the capacity of the
// upstream: a few workers, a line of bounded length in front of them, and work that goes on after its caller
// has given up, which is what turns a slow service into a dead one.
//
// Time is the time package, so everything here runs on the virtual clock of testing/synctest.
package faults
