package faults

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// maxWindows limits the cost of an arrival, which looks at every window.
const maxWindows = 1000

// Validate returns all invalid values at once, or nil. Each error says which key is wrong, what was
// expected and what was given.
func (s Spec) Validate() error {
	var c checker
	c.rates("", s.rates())
	c.statuses("statuses", s.Statuses)
	c.headerText("retryAfter", s.RetryAfter)
	c.latency("latency", s.Latency)
	c.atLeastZero("failFirst", s.FailFirst)
	c.capacity("capacity", s.Capacity)
	if s.Effect != "" && s.Effect != EffectBefore && s.Effect != EffectAfter {
		c.Add("effect", "expected before or after, got %q", s.Effect)
	}
	c.grpc("grpc", s.GRPC)
	if len(s.Schedule) > maxWindows {
		c.Add("schedule", "expected at most %d windows, got %d", maxWindows, len(s.Schedule))
		return c.Err()
	}
	for i, w := range s.Schedule {
		c.window(fmt.Sprintf("schedule[%d]", i), w)
	}
	if len(c.List) == 0 { // otherwise they would repeat the mistakes above
		c.combinations(s)
	}
	return c.Err()
}

// rate is one of the faults that exclude each other, with its name in the document. Their order is
// the order in which an Injector deals them out.
type rate struct {
	fault Fault
	name  string
	value float64
}

func (s Spec) rates() []rate {
	return []rate{
		{FaultError, "errorRate", s.ErrorRate},
		{FaultReset, "resetRate", s.ResetRate},
		{FaultTruncate, "truncateRate", s.TruncateRate},
		{FaultHang, "hangRate", s.HangRate},
		{FaultSlowBody, "slowBodyRate", s.SlowBodyRate},
	}
}

// checker collects mistakes.
type checker struct{ mistake.List }

func (c *checker) rates(prefix string, rates []rate) {
	for _, r := range rates {
		if !(r.value >= 0 && r.value <= 1) { // also rejects NaN
			c.Add(prefix+r.name, "expected a rate from 0 to 1, got %v", r.value)
		}
	}
}

func (c *checker) statuses(path string, statuses []int) {
	for i, status := range statuses {
		if status < 400 || status > 599 {
			c.Add(fmt.Sprintf("%s[%d]", path, i), "expected an error status from 400 to 599, got %d", status)
		}
	}
}

// maxHeaderText is the longest text for a header, in bytes. It is sent with every error.
const maxHeaderText = 1 << 10

// headerText rejects text that a header cannot carry unchanged.
func (c *checker) headerText(path, value string) {
	if len(value) > maxHeaderText {
		c.Add(path, "expected at most %d bytes, got %d", maxHeaderText, len(value))
		return
	}
	if strings.Trim(value, " \t") != value {
		c.Add(path, "expected text without blanks at either end (a header cannot carry them), got %q", value)
	}
	control := func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f }
	if strings.ContainsFunc(value, control) {
		c.Add(path, "expected text without control characters, got %q", value)
	}
}

func (c *checker) atLeastZero(path string, n int) {
	if n < 0 {
		c.Add(path, "expected 0 or more, got %d", n)
	}
}

func (c *checker) capacity(path string, v Capacity) {
	c.atLeastZero(path+".workers", v.Workers)
	if v.ServiceTime < 0 {
		c.Add(path+".serviceTime", "expected 0s or more, got %v", v.ServiceTime)
	}
	c.atLeastZero(path+".queue", v.Queue)
}

func (c *checker) latency(path string, l Latency) {
	positive := func(name string, d time.Duration) bool {
		if d <= 0 {
			c.Add(path+"."+name, "expected more than 0s with distribution %s, got %v", l.Distribution, d)
		}
		return d > 0
	}
	known := map[string]bool{}
	use := func(names ...string) {
		for _, name := range names {
			known[name] = true
		}
	}
	switch l.Distribution {
	case "", DistributionNone:
	case DistributionFixed:
		use("value")
		positive("value", l.Value)
	case DistributionUniform:
		use("min", "max")
		if l.Min < 0 {
			c.Add(path+".min", "expected 0s or more, got %v", l.Min)
		}
		if positive("max", l.Max) && l.Max < l.Min {
			c.Add(path+".max", "expected at least min (%v), got %v", l.Min, l.Max)
		}
	case DistributionLognormal:
		use("median", "p99")
		if positive("median", l.Median) && l.P99 < l.Median {
			c.Add(path+".p99", "expected at least the median (%v), got %v", l.Median, l.P99)
		}
	case DistributionPareto:
		use("min", "alpha")
		positive("min", l.Min)
		if !(l.Alpha > 0) || math.IsInf(l.Alpha, 0) {
			c.Add(path+".alpha", "expected a finite number above 0, got %v", l.Alpha)
		}
	default:
		c.Add(path+".distribution", "expected none, fixed, uniform, lognormal or pareto, got %q", l.Distribution)
		return // the parameters of an unknown distribution cannot be checked
	}
	for _, p := range []struct {
		name string
		set  bool
	}{
		{"value", l.Value != 0}, {"min", l.Min != 0}, {"max", l.Max != 0},
		{"median", l.Median != 0}, {"p99", l.P99 != 0}, {"alpha", l.Alpha != 0},
	} {
		if p.set && !known[p.name] {
			c.Add(path+"."+p.name, "expected nothing here: distribution %s does not use it", l.normalized().Distribution)
		}
	}
}

func (c *checker) window(path string, w Window) {
	if w.At < 0 {
		c.Add(path+".at", "expected 0s or more, got %v", w.At)
	}
	if w.For <= 0 {
		c.Add(path+".for", "expected more than 0s, got %v", w.For)
	}
	// The base is the zero value, so only mistakes of the window itself show.
	v := w.over(Spec{})
	c.rates(path+".", v.rates())
	c.statuses(path+".statuses", v.Statuses)
	c.headerText(path+".retryAfter", v.RetryAfter)
	c.latency(path+".latency", v.Latency)
	c.capacity(path+".capacity", v.Capacity)
}

// combinations checks what depends on several fields: at the start, and whenever a window opens or
// closes.
func (c *checker) combinations(s Spec) {
	base := s
	base.Schedule = nil
	c.combination("", base)
	if len(c.List) > 0 {
		return // windows that do not change these fields would repeat it
	}
	reported := map[string]bool{}
	for _, w := range s.Schedule {
		for _, t := range []time.Duration{w.At, w.At + w.For} {
			last := -1
			for i, other := range s.Schedule {
				if other.covers(t) {
					last = i
				}
			}
			if path := fmt.Sprintf("schedule[%d]", last); last >= 0 && !reported[path] {
				before := len(c.List)
				c.combination(path, s.at(t))
				reported[path] = len(c.List) > before
			}
		}
	}
}

// combination reports mistakes at path, or at the field itself if path is empty.
func (c *checker) combination(path string, s Spec) {
	at := func(field string) string {
		if path != "" {
			return path
		}
		return field
	}
	sum := 0.0
	for _, r := range s.rates() {
		sum += r.value
		if sum > 1+1e-9 { // adding 0.1 ten times does not give exactly 1
			c.Add(at(r.name), "expected errorRate, resetRate, truncateRate, hangRate and slowBodyRate to add up to at most 1, "+
				"got %.4g", s.ErrorRate+s.ResetRate+s.TruncateRate+s.HangRate+s.SlowBodyRate)
			break
		}
	}
	if s.Capacity.Workers > 0 && s.Capacity.ServiceTime == 0 && s.Latency.normalized().Distribution == DistributionNone {
		c.Add(at("capacity.serviceTime"), "expected more than 0s with %d workers and no latency (work that takes no time fills no queue), got 0s",
			s.Capacity.Workers)
	}
}
