// Package lab shows how a policy behaves in an outage, before there is one.
//
// An [Experiment] makes calls under a policy against a modelled upstream. The policy is real: every
// client instance is a [transport.Transport] with its own circuit and budget, as in production.
// Only the upstream is a model: workers that need time, a queue in front of them, and the faults of
// package faults, as a [Scenario] sets them. In a bubble of testing/synctest (package virtual),
// minutes pass in seconds, and the same seed gives the same figures.
package lab
