// Package resilience puts one pipeline around a call that may fail:
//
//	timeout( retry( breaker( attempt timeout( operation ) ) ) )
//
// The total timeout owns the time of the whole call, attempts and waits
// together. The retry repeats transient failures with jittered exponential
// backoff, within a budget that successes pay for. The breaker fails fast
// while the upstream is known to be down. The attempt timeout ends one attempt
// that hangs. failsafe-go composes the four; sony/gobreaker decides whether the
// circuit is closed.
//
// The package knows nothing of HTTP, tracing or logging: a caller with a
// database or a queue uses it as it is, through [Pipeline.Do] and an
// [Operation]. What happened comes back as a [Report] with one [Reason] for
// every attempt and for the call, and goes to an [Observer].
package resilience
