// Package backend models a service for simulators: instances with workers, a queue, faults and
// phases, and the figures that a run is judged by.
//
// Events in the same nanosecond of a virtual clock happen in any order. Where the order matters,
// the simulators keep events apart, or the same seed would give different figures.
package backend
