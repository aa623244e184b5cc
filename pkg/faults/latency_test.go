package faults_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestSampleQuantiles(t *testing.T) {
	const ms = time.Millisecond
	tests := map[string]struct {
		latency  faults.Latency
		min, max time.Duration             // of all samples
		want     map[float64]time.Duration // quantiles, calculated by hand from the formulas
	}{
		"empty": {latency: faults.Latency{}},
		"none":  {latency: faults.Latency{Distribution: faults.DistributionNone}},
		"fixed": {
			latency: faults.Latency{Distribution: faults.DistributionFixed, Value: 7 * ms},
			min:     7 * ms, max: 7 * ms,
		},
		"uniform": {
			latency: faults.Latency{Distribution: faults.DistributionUniform, Min: 100 * ms, Max: 200 * ms},
			min:     100 * ms, max: 200 * ms,
			want: map[float64]time.Duration{0.25: 125 * ms, 0.5: 150 * ms, 0.9: 190 * ms},
		},
		"lognormal": {
			latency: faults.Latency{Distribution: faults.DistributionLognormal, Median: 20 * ms, P99: 200 * ms},
			min:     1, max: time.Minute,
			// σ = ln 10 / 2.3263 = 0.98979; the quantile at 0.9 is 20·exp(1.28155·σ), at 0.1 its
			// mirror.
			want: map[float64]time.Duration{0.1: 5626 * time.Microsecond, 0.5: 20 * ms, 0.9: 71100 * time.Microsecond, 0.99: 200 * ms},
		},
		"lognormal without spread": {
			latency: faults.Latency{Distribution: faults.DistributionLognormal, Median: 20 * ms, P99: 20 * ms},
			min:     20 * ms, max: 20 * ms,
		},
		"pareto": {
			latency: faults.Latency{Distribution: faults.DistributionPareto, Min: 10 * ms, Alpha: 2},
			min:     10 * ms, max: math.MaxInt64,
			// min·(1-p)^(-1/2): √2 at the median, √10 at 0.9, 10 at 0.99.
			want: map[float64]time.Duration{0.5: 14142 * time.Microsecond, 0.9: 31623 * time.Microsecond, 0.99: 100 * ms},
		},
		"pareto beyond any duration": {
			latency: faults.Latency{Distribution: faults.DistributionPareto, Min: time.Hour, Alpha: 1e-6},
			min:     time.Hour, max: math.MaxInt64,
			want: map[float64]time.Duration{0.5: math.MaxInt64},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			samples := make([]time.Duration, 200_000)
			for i := range samples {
				samples[i] = tt.latency.Sample(rng)
			}
			slices.Sort(samples)
			if first, last := samples[0], samples[len(samples)-1]; first < tt.min || last > tt.max {
				t.Errorf("samples from %v to %v, want %v to %v", first, last, tt.min, tt.max)
			}
			for p, want := range tt.want {
				got := samples[int(p*float64(len(samples)))]
				if off := math.Abs(float64(got)/float64(want) - 1); off > 0.03 {
					t.Errorf("quantile %v is %v, want %v", p, got, want)
				}
			}
		})
	}
}
