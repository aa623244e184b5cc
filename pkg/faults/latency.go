package faults

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"time"
)

// Distribution names a family of latencies.
type Distribution string

// The distributions. Empty means none.
const (
	DistributionNone      Distribution = "none"      // no latency
	DistributionFixed     Distribution = "fixed"     // always Value
	DistributionUniform   Distribution = "uniform"   // anything from Min to Max
	DistributionLognormal Distribution = "lognormal" // what most services look like: a hump and a tail
	DistributionPareto    Distribution = "pareto"    // a power-law tail from Min on: now and then, very long
)

// Latency is a distribution with its parameters. Parameters of other distributions are mistakes, not ignored.
type Latency struct {
	// Distribution is the family; empty means none. It decides which of the others are needed.
	Distribution Distribution `yaml:"distribution" json:"distribution"`
	// Value is the latency of fixed; above 0.
	Value time.Duration `yaml:"value,omitempty" json:"value,omitempty"`
	// Min is the smallest latency: of uniform, 0 or more; of pareto, above 0.
	Min time.Duration `yaml:"min,omitempty" json:"min,omitempty"`
	// Max is the largest latency of uniform; at least Min, above 0.
	Max time.Duration `yaml:"max,omitempty" json:"max,omitempty"`
	// Median of lognormal: half of the calls are faster; above 0.
	Median time.Duration `yaml:"median,omitempty" json:"median,omitempty"`
	// P99 of lognormal: one call in a hundred is slower; at least Median.
	P99 time.Duration `yaml:"p99,omitempty" json:"p99,omitempty"`
	// Alpha is the weight of pareto's tail; above 0. The smaller, the heavier: up to 1 it has no mean.
	Alpha float64 `yaml:"alpha,omitempty" json:"alpha,omitempty"`
}

// z99 is the 99th percentile of the standard normal distribution.
const z99 = 2.3263478740408408

// Sample draws one latency from rng, 0 or more. What would be too long for a time.Duration is the longest one.
//
// The formulas are the textbook ones (Johnson, Kotz, Balakrishnan, Continuous Univariate Distributions, vol. 1):
//
//	lognormal  exp(μ + σZ), Z standard normal; the median is exp(μ) and the 99th percentile exp(μ + 2.326σ),
//	           hence μ = ln(median) and σ = ln(p99/median) / 2.326
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
		u := 1 - rng.Float64() // Float64 may be 0 and is never 1; here it must be the other way round
		return saturated(float64(l.Min) * math.Pow(u, -1/l.Alpha))
	default:
		return 0
	}
}

// saturated converts d, because a conversion that overflows has no defined result.
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

// MarshalJSON writes the durations as the document does ("20ms"). Documents are read by package config, which
// takes JSON too.
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
