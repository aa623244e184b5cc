package rival

import (
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

func fixed(d time.Duration) foreign.Backoff {
	return foreign.Backoff{Kind: foreign.BackoffFixed, Base: d}
}

// The sources of the formulas are with the constants of package foreign and with the code.
func TestBackoff(t *testing.T) {
	wait := func(u float64, b foreign.Backoff) play {
		return play{policy: retries(5, func(p *foreign.Policy) { p.Retry.Backoff = b }), upstream: always(answer{status: 503}), random: u}
	}
	type backoff = foreign.Backoff
	scenes(t, map[string]scene{
		"none":        {wait(0, backoff{}), "0s try, 0s try, 0s try, 0s try, 0s try, 0s max_attempts"},
		"fixed":       {wait(0, fixed(s)), "0s try, 1s try, 2s try, 3s try, 4s try, 4s max_attempts"},
		"linear":      {wait(0, backoff{Kind: foreign.BackoffLinear, Base: s}), "0s try, 1s try, 3s try, 6s try, 10s try, 10s max_attempts"},
		"exponential": {wait(0, backoff{Kind: foreign.BackoffExponential, Base: s, Factor: 1.5}), "0s try, 1s try, 2.5s try, 4.75s try, 8.125s try, 8.125s max_attempts"},
		"shrinking":   {wait(0, backoff{Kind: foreign.BackoffExponential, Base: s, Factor: 0.5}), "0s try, 1s try, 1.5s try, 1.75s try, 1.875s try, 1.875s max_attempts"},
		"max":         {wait(0, backoff{Kind: foreign.BackoffExponential, Base: s, Factor: 2, Max: 3 * s}), "0s try, 1s try, 3s try, 6s try, 9s try, 9s max_attempts"},
		"envoy":       {wait(0, backoff{Kind: foreign.BackoffEnvoy, Base: 25 * ms, Max: 250 * ms}), "0s try, 25ms try, 100ms try, 275ms try, 525ms try, 525ms max_attempts"},
		"list":        {wait(0, backoff{Kind: foreign.BackoffList, Waits: []time.Duration{s, 5 * s}}), "0s try, 1s try, 6s try, 11s try, 16s try, 16s max_attempts"},
		"full":        {wait(0.5, backoff{Kind: foreign.BackoffEnvoy, Base: 25 * ms, Max: 250 * ms, Jitter: foreign.JitterFull}), "0s try, 12.5ms try, 50ms try, 137.5ms try, 262.5ms try, 262.5ms max_attempts"},
		"equal":       {wait(0.5, backoff{Kind: foreign.BackoffFixed, Base: s, Jitter: foreign.JitterEqual}), "0s try, 750ms try, 1.5s try, 2.25s try, 3s try, 3s max_attempts"},
		"percent":     {wait(0, backoff{Kind: foreign.BackoffFixed, Base: s, Jitter: foreign.JitterPercent, Percent: 20}), "0s try, 800ms try, 1.6s try, 2.4s try, 3.2s try, 3.2s max_attempts"},
		"percent, then max": {wait(0.75, backoff{Kind: foreign.BackoffFixed, Base: s, Max: s, Jitter: foreign.JitterPercent, Percent: 20}),
			"0s try, 1s try, 2s try, 3s try, 4s try, 4s max_attempts"},
		"percent above max": {wait(0.75, backoff{Kind: foreign.BackoffFixed, Base: s, Max: s, Jitter: foreign.JitterPercent, Percent: 20, JitterAboveMax: true}),
			"0s try, 1.1s try, 2.2s try, 3.3s try, 4.4s try, 4.4s max_attempts"},
		"upward":       {wait(0.5, backoff{Kind: foreign.BackoffFixed, Base: s, Jitter: foreign.JitterUpward, Percent: 50}), "0s try, 1.25s try, 2.5s try, 3.75s try, 5s try, 5s max_attempts"},
		"decorrelated": {wait(0.5, backoff{Base: s, Max: 5 * s, Jitter: foreign.JitterDecorrelated}), "0s try, 2s try, 5.5s try, 10.5s try, 15.5s try, 15.5s max_attempts"},
		// Polly's curve at 0.5, 1.5, 2.5 and 3.5 is 1.2564, 2.7866, 5.6366 and 11.3010. The waits
		// are its steps, divided by 1.4.
		"polly":     {wait(0.5, backoff{Kind: foreign.BackoffExponential, Base: s, Factor: 2, Jitter: foreign.JitterPolly}), "0s try, 897.404ms try, 1.990408s try, 4.026156s try, 8.072135s try, 8.072135s max_attempts"},
		"throttled": {wait(0, backoff{Kind: foreign.BackoffFixed, Base: s, ThrottledBase: 2 * s}), "0s try, 2s try, 4s try, 6s try, 8s try, 8s max_attempts"},
	})
}

// Huge waits neither overflow nor become negative.
func TestBackoffIsNeverTooLong(t *testing.T) {
	t.Parallel()
	for _, jitter := range []foreign.Jitter{"", foreign.JitterFull, foreign.JitterUpward, foreign.JitterDecorrelated, foreign.JitterPolly} {
		w := waits{policy: foreign.Backoff{Kind: foreign.BackoffExponential, Base: time.Hour, Factor: 10, Jitter: jitter, Percent: 100}}
		for n := range 2000 {
			if d := w.next(0.9, false); d < 0 {
				t.Fatalf("jitter %q: wait %d is %v, want at least 0", jitter, n+1, d)
			}
		}
	}
}
