package faults

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"time"
)

// Distribution names a family of latencies.
type Distribution string

// The distributions.
const (
	DistributionNone      Distribution = "none"      // no latency
	DistributionFixed     Distribution = "fixed"     // always Value
	DistributionUniform   Distribution = "uniform"   // evenly from Min to Max
	DistributionLognormal Distribution = "lognormal" // a hump and a tail, as most services have
	// a power-law tail from Min: now and then very long
	DistributionPareto Distribution = "pareto"
)

// Latency is a distribution with its parameters. Parameters of another distribution are refused.
type Latency struct {
	// Distribution decides which other keys are required. Empty means none.
	Distribution Distribution `yaml:"distribution" json:"distribution"`
	// Value is the latency of fixed. Above 0.
	Value time.Duration `yaml:"value,omitempty" json:"value,omitempty"`
	// Min is the smallest latency of uniform (0 or more) or pareto (above 0).
	Min time.Duration `yaml:"min,omitempty" json:"min,omitempty"`
	// Max is the largest latency of uniform. At least Min, above 0.
	Max time.Duration `yaml:"max,omitempty" json:"max,omitempty"`
	// Median is the median of lognormal. Above 0.
	Median time.Duration `yaml:"median,omitempty" json:"median,omitempty"`
	// P99 is the 99th percentile of lognormal. At least Median.
	P99 time.Duration `yaml:"p99,omitempty" json:"p99,omitempty"`
	// Alpha is the exponent of pareto. Above 0. A smaller one makes a heavier tail; up to 1 there
	// is no mean.
	Alpha float64 `yaml:"alpha,omitempty" json:"alpha,omitempty"`
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

// Sample draws one latency from rng, 0 or more. A latency too long for a time.Duration becomes the
// longest one.
//
// The formulas are in Johnson, Kotz, Balakrishnan, Continuous Univariate Distributions, vol. 1:
//
//	lognormal  exp(μ + σZ), Z standard normal; the median is exp(μ) and the 99th percentile
//	           exp(μ + 2.326σ), hence μ = ln(median) and σ = ln(p99/median) / 2.326
//	pareto     min · U^(-1/α), U uniform on (0, 1], by inverting P(X > x) = (min/x)^α
func (l Latency) Sample(rng *rand.Rand) time.Duration {
	switch l.Distribution {
	case DistributionFixed:
		return l.Value
	case DistributionUniform:
		return saturated(float64(l.Min) + rng.Float64()*float64(l.Max-l.Min))
	case DistributionLognormal:
		sigma := math.Log(float64(l.P99)/float64(l.Median)) / z99
		return saturated(float64(l.Median) * math.Exp(sigma*rng.NormFloat64()))
	case DistributionPareto:
		u := 1 - rng.Float64() // Float64 may be 0 but is never 1; U may be 1 but never 0
		return saturated(float64(l.Min) * math.Pow(u, -1/l.Alpha))
	default:
		return 0
	}
}

// saturated converts d, and limits it to the longest Duration. Go does not define the result of a
// conversion that overflows.
func saturated(d float64) time.Duration {
	if d >= math.MaxInt64 {
		return math.MaxInt64
	}
	return time.Duration(d)
}

func (l Latency) normalized() Latency {
	if l.Distribution == "" {
		l.Distribution = DistributionNone
	}
	return l
}

// MarshalJSON writes the durations as in the document ("20ms"). Package config reads documents,
// JSON included.
func (l Latency) MarshalJSON() ([]byte, error) {
	type plain Latency
	return json.Marshal(struct {
		plain
		Value  string `json:"value,omitempty"`
		Min    string `json:"min,omitempty"`
		Max    string `json:"max,omitempty"`
		Median string `json:"median,omitempty"`
		P99    string `json:"p99,omitempty"`
	}{plain(l), present(l.Value), present(l.Min), present(l.Max), present(l.Median), present(l.P99)})
}

func present(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
