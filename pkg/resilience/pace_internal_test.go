package resilience

import "testing"

// With a millionth of an attempt as its unit, the pace overflowed after three years of 100,000
// attempts a second, and no client got a retry any more.
func TestPaceAfterManyAttempts(t *testing.T) {
	for _, attempts := range []int64{0, 1e9, 1e13, 1e15} {
		p := newPace()
		seen := traffic{rate: 100, whole: true}
		for range 2 {
			p.attempts.Store(attempts)
			retries := 0
			for {
				if _, ok := p.take(seen); !ok {
					break
				}
				retries++
			}
			if want := 10; retries != want { // a fifth of the attempts of half a second
				t.Errorf("after %d attempts: %d retries, want %d", attempts, retries, want)
			}
			attempts += 50
		}
	}
}
