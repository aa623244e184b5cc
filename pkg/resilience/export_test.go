package resilience

// Compose makes failsafe-go's executor run all of p's calls from their first attempt on.
func (p *Pipeline[T]) Compose() { p.first = func(c *callState[T]) { c.verdict = VerdictRetry } }
