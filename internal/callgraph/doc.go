// Package callgraph simulates services that call each other, with a policy on every call.
//
// The policies are real: every instance of a caller has its own [transport.Transport], or a client
// with the rules of another system. The services are models (package backend). An [Experiment] runs
// in a bubble of testing/synctest, where the same seed gives the same figures.
//
// Attempts and calls have numbers that depend only on the call they come from, never on a counter
// that several of them share. So the order of events in the same nanosecond changes nothing, except
// for arrivals at one instance and for calls of one client. Instances order their arrivals; calls
// of one client begin at different times, but for chance.
package callgraph
