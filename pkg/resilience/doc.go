// Package resilience runs calls that may fail through one pipeline:
//
//	timeout( retry( breaker( attempt timeout( operation ) ) ) )
//
// The total timeout limits the whole call, attempts and waits together. The retry repeats transient
// failures with jittered exponential backoff, within a budget that successes pay for. The breaker
// refuses attempts while the upstream is known to be down. The attempt timeout limits one attempt.
// failsafe-go composes the four, and sony/gobreaker keeps the circuit's state.
//
// The package does not depend on HTTP, tracing or logging. Use it for a database or a queue through
// [Pipeline.Do] and an [Operation]. Each call returns a [Report] with a [Reason] for every attempt
// and for the call. An [Observer] receives the same reports.
package resilience
