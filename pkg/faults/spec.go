package faults

import (
	"encoding/json"
	"slices"
	"time"
)

// Spec is the faults document. The zero value injects nothing.
//
// ErrorRate, ResetRate, TruncateRate, HangRate and SlowBodyRate are probabilities from 0 to 1. They exclude
// each other: one arrival suffers at most one of them, so their sum is at most 1.
//
// A Spec is plain data: it may be read by many goroutines at once as long as none writes.
type Spec struct {
	// ErrorRate is the share of arrivals answered with an error status. 0 to 1.
	ErrorRate float64 `yaml:"errorRate" json:"errorRate"`
	// Statuses are the error statuses, 400 to 599, each as likely as the others. Empty means 503 alone.
	Statuses []int `yaml:"statuses" json:"statuses"`
	// RetryAfter is sent with every error status: a duration such as "2s" as whole seconds, rounded up;
	// "date" as an HTTP-date; any other text, a negative duration among it, as it is, so that nonsense can be
	// tested. At most 1 KiB, without blanks around it. Empty sends none.
	RetryAfter string `yaml:"retryAfter" json:"retryAfter"`
	// Latency is how long an answer takes.
	Latency Latency `yaml:"latency" json:"latency"`
	// ResetRate is the share of connections reset before any byte of the response. 0 to 1.
	ResetRate float64 `yaml:"resetRate" json:"resetRate"`
	// TruncateRate is the share of responses whose connection dies after half the body. 0 to 1.
	TruncateRate float64 `yaml:"truncateRate" json:"truncateRate"`
	// HangRate is the share of calls that are accepted and never answered. 0 to 1.
	HangRate float64 `yaml:"hangRate" json:"hangRate"`
	// SlowBodyRate is the share of responses whose body arrives whole, but in drips. 0 to 1.
	SlowBodyRate float64 `yaml:"slowBodyRate" json:"slowBodyRate"`
	// FailFirst makes the first FailFirst attempts of each request id fail with an error status, and every
	// later one work. At least 0; while it is above 0 nothing is left to chance: the rates above do not apply.
	// PUT, and a PATCH that names it, count from the first attempt again.
	FailFirst int `yaml:"failFirst" json:"failFirst"`
	// Capacity limits how much work is done at once.
	Capacity Capacity `yaml:"capacity" json:"capacity"`
	// HonourDeadline drops queued work whose caller's deadline has passed: when its turn comes, or when a full queue
	// needs its place. Otherwise it is done for nobody.
	HonourDeadline bool `yaml:"honourDeadline" json:"honourDeadline"`
	// Effect says whether a call that suffers a fault has taken effect. Empty means [EffectBefore].
	Effect Effect `yaml:"effect" json:"effect"`
	// Schedule changes the document for a while. Where windows overlap, the later one in the list wins, field
	// by field. At most 1000 windows.
	Schedule []Window `yaml:"schedule" json:"schedule"`
}

// Effect says when a call takes effect relative to the fault that strikes it.
type Effect string

// The two orders of effect and fault.
const (
	EffectBefore Effect = "before" // the work is done, then its answer is lost
	EffectAfter  Effect = "after"  // a fault that loses the answer leaves the work undone
)

// Capacity is how much work can be done at once, and how much may wait for it.
type Capacity struct {
	// Workers is how many calls are worked on at once. At least 0; 0 means no limit: nothing queues, and ServiceTime is
	// not spent.
	Workers int `yaml:"workers" json:"workers"`
	// ServiceTime is how long a worker is busy with one call, on top of the latency. 0 means that the call's
	// latency is spent in the worker instead.
	ServiceTime time.Duration `yaml:"serviceTime" json:"serviceTime"`
	// Queue is how many calls may wait for a worker. At least 0; 0 means no waiting room: a call that finds all workers
	// busy is refused at once.
	Queue int `yaml:"queue" json:"queue"`
}

// Window overrides a [Spec] from At until At+For, counted from the start, from the last PUT or from the last PATCH
// that names schedule, whichever came last. What it does not mention stays as it is; what it mentions counts even
// when it is zero. FailFirst, HonourDeadline and Effect cannot be scheduled: they describe the service, not its
// weather.
type Window struct {
	At           time.Duration   `yaml:"at" json:"at"`   // 0 or more
	For          time.Duration   `yaml:"for" json:"for"` // above 0
	ErrorRate    *float64        `yaml:"errorRate,omitempty" json:"errorRate,omitempty"`
	Statuses     []int           `yaml:"statuses,omitempty" json:"statuses,omitempty"`
	RetryAfter   *string         `yaml:"retryAfter,omitempty" json:"retryAfter,omitempty"`
	Latency      *Latency        `yaml:"latency,omitempty" json:"latency,omitempty"` // replaces the latency as a whole
	ResetRate    *float64        `yaml:"resetRate,omitempty" json:"resetRate,omitempty"`
	TruncateRate *float64        `yaml:"truncateRate,omitempty" json:"truncateRate,omitempty"`
	HangRate     *float64        `yaml:"hangRate,omitempty" json:"hangRate,omitempty"`
	SlowBodyRate *float64        `yaml:"slowBodyRate,omitempty" json:"slowBodyRate,omitempty"`
	Capacity     *CapacityChange `yaml:"capacity,omitempty" json:"capacity,omitempty"` // changes the capacity, field by field
}

// CapacityChange is what a [Window] changes of the capacity: only the fields that are present count.
type CapacityChange struct {
	Workers     *int           `yaml:"workers,omitempty" json:"workers,omitempty"`
	ServiceTime *time.Duration `yaml:"serviceTime,omitempty" json:"serviceTime,omitempty"`
	Queue       *int           `yaml:"queue,omitempty" json:"queue,omitempty"`
}

// Default is what flaky-server starts with: three calls in ten answer 503, at once, and nothing limits the
// rest.
func Default() Spec {
	return Spec{
		ErrorRate: 0.3,
		Capacity:  Capacity{ServiceTime: 20 * time.Millisecond},
	}.normalized()
}

// normalized is s with the meaning of what is empty written out, in memory of its own.
func (s Spec) normalized() Spec {
	s = s.clone()
	if len(s.Statuses) == 0 {
		s.Statuses = defaultStatuses()
	}
	if s.Effect == "" {
		s.Effect = EffectBefore
	}
	s.Latency = s.Latency.normalized()
	for i := range s.Schedule {
		w := &s.Schedule[i]
		if w.Statuses != nil && len(w.Statuses) == 0 {
			w.Statuses = defaultStatuses()
		}
		if w.Latency != nil {
			*w.Latency = w.Latency.normalized()
		}
	}
	return s
}

func defaultStatuses() []int { return []int{503} }

// clone shares no memory with s, and shows an absent schedule as an empty one.
func (s Spec) clone() Spec {
	s.Statuses = slices.Clone(s.Statuses)
	s.Schedule = append([]Window{}, s.Schedule...)
	for i := range s.Schedule {
		w := &s.Schedule[i]
		w.Statuses = slices.Clone(w.Statuses)
		w.ErrorRate = cloned(w.ErrorRate)
		w.RetryAfter = cloned(w.RetryAfter)
		w.Latency = cloned(w.Latency)
		w.ResetRate = cloned(w.ResetRate)
		w.TruncateRate = cloned(w.TruncateRate)
		w.HangRate = cloned(w.HangRate)
		w.SlowBodyRate = cloned(w.SlowBodyRate)
		if c := cloned(w.Capacity); c != nil {
			c.Workers, c.ServiceTime, c.Queue = cloned(c.Workers), cloned(c.ServiceTime), cloned(c.Queue)
			w.Capacity = c
		}
	}
	return s
}

func cloned[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return new(*p)
}

// at is what is in force when elapsed has passed, without its schedule.
func (s Spec) at(elapsed time.Duration) Spec {
	windows := s.Schedule
	s.Schedule = nil
	for _, w := range windows {
		if w.covers(elapsed) {
			s = w.over(s)
		}
	}
	return s
}

// covers subtracts rather than adds, so that no window is too long.
func (w Window) covers(elapsed time.Duration) bool {
	return elapsed >= w.At && elapsed-w.At < w.For
}

// nextChange is how long it takes from elapsed until the next window begins or ends, or false when none will.
func (s Spec) nextChange(elapsed time.Duration) (in time.Duration, ok bool) {
	for _, w := range s.Schedule {
		// As differences, so that no window is too long.
		for _, left := range []time.Duration{w.At - elapsed, w.For - (elapsed - w.At)} {
			if left > 0 && (!ok || left < in) {
				in, ok = left, true
			}
		}
	}
	return in, ok
}

func (w Window) over(s Spec) Spec {
	override(&s.ErrorRate, w.ErrorRate)
	override(&s.RetryAfter, w.RetryAfter)
	override(&s.Latency, w.Latency)
	override(&s.ResetRate, w.ResetRate)
	override(&s.TruncateRate, w.TruncateRate)
	override(&s.HangRate, w.HangRate)
	override(&s.SlowBodyRate, w.SlowBodyRate)
	if w.Statuses != nil {
		s.Statuses = w.Statuses
	}
	if c := w.Capacity; c != nil {
		override(&s.Capacity.Workers, c.Workers)
		override(&s.Capacity.ServiceTime, c.ServiceTime)
		override(&s.Capacity.Queue, c.Queue)
	}
	return s
}

func override[T any](dst *T, src *T) {
	if src != nil {
		*dst = *src
	}
}

// MarshalJSON writes the service time as the document does ("20ms"). Documents are read by package config,
// which takes JSON too.
func (c Capacity) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Workers     int    `json:"workers"`
		ServiceTime string `json:"serviceTime"`
		Queue       int    `json:"queue"`
	}{c.Workers, c.ServiceTime.String(), c.Queue})
}

// MarshalJSON writes the service time as the document does.
func (c CapacityChange) MarshalJSON() ([]byte, error) {
	type plain CapacityChange
	shown := struct {
		plain
		ServiceTime *string `json:"serviceTime,omitempty"`
	}{plain: plain(c)}
	if c.ServiceTime != nil {
		shown.ServiceTime = new(c.ServiceTime.String())
	}
	return json.Marshal(shown)
}

// MarshalJSON writes the durations as the document does.
func (w Window) MarshalJSON() ([]byte, error) {
	type plain Window
	return json.Marshal(struct {
		At  string `json:"at"`
		For string `json:"for"`
		plain
	}{w.At.String(), w.For.String(), plain(w)})
}
