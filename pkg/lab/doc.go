// Package lab answers what a policy would do in an outage, before there is one.
//
// An [Experiment] makes calls under a policy against a modelled upstream. The
// policy is not modelled: every client instance is a [transport.Transport] with
// its own circuit breaker and budget, as it would serve traffic. Only what is
// behind it is a model: workers that take their time, a line in front of them,
// and the faults of package faults, by a [Scenario]. Inside a bubble of
// testing/synctest (package virtual) minutes pass in seconds, and the same seed
// gives the same figures.
package lab
