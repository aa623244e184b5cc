package faults

import (
	"encoding/json"
	"slices"
	"time"
)

// Spec is the faults document. The zero value injects nothing.
//
// ErrorRate, ResetRate, TruncateRate, HangRate and SlowBodyRate are probabilities from 0 to 1. They
// exclude each other: one arrival suffers at most one of them, so their sum is at most 1.
//
// A Spec is plain data: it may be read by many goroutines at once as long as none writes.
type Spec struct {
	// ErrorRate is the share of calls that get an error status. 0 to 1.
	ErrorRate float64 `yaml:"errorRate" json:"errorRate"`
	// Statuses are the error statuses, 400 to 599, all equally likely. Empty means 503.
	Statuses []int `yaml:"statuses" json:"statuses"`
	// RetryAfter is the Retry-After header of every error status. A duration such as "2s" becomes
	// whole seconds, rounded up; "date" becomes an HTTP-date; any other text, and a negative
	// duration, is sent unchanged, to test nonsense. At most 1 KiB, without surrounding blanks.
	// Empty sends no header.
	RetryAfter string `yaml:"retryAfter" json:"retryAfter"`
	// Latency is the duration of a call.
	Latency Latency `yaml:"latency" json:"latency"`
	// ResetRate is the share of calls whose connection is reset before any byte of the response. 0
	// to 1.
	ResetRate float64 `yaml:"resetRate" json:"resetRate"`
	// TruncateRate is the share of calls whose connection dies after half the body. 0 to 1.
	TruncateRate float64 `yaml:"truncateRate" json:"truncateRate"`
	// HangRate is the share of calls that are accepted and never answered. 0 to 1.
	HangRate float64 `yaml:"hangRate" json:"hangRate"`
	// SlowBodyRate is the share of calls whose body arrives complete, but slowly. 0 to 1.
	SlowBodyRate float64 `yaml:"slowBodyRate" json:"slowBodyRate"`
	// FailFirst is the number of attempts of each request id that fail with an error status; later
	// ones succeed. At least 0; above 0 the rates do not apply. PUT, and a PATCH that names it,
	// start the count again.
	FailFirst int `yaml:"failFirst" json:"failFirst"`
	// Capacity limits the work that is done at once.
	Capacity Capacity `yaml:"capacity" json:"capacity"`
	// HonourDeadline drops queued work whose caller's deadline has passed, when its turn comes or
	// when a full queue needs its place. Otherwise such work is done for a caller that has left.
	HonourDeadline bool `yaml:"honourDeadline" json:"honourDeadline"`
	// Effect decides whether a call with a fault takes effect. Empty means [EffectBefore].
	Effect Effect `yaml:"effect" json:"effect"`
	GRPC   GRPC   `yaml:"grpc,omitempty" json:"grpc,omitzero"`
	// Schedule changes the document for a time. Where windows overlap, the later one in the list
	// wins, key by key. At most 1000 windows.
	Schedule []Window `yaml:"schedule" json:"schedule"`
}

// Effect orders the effect of a call and its fault.
type Effect string

// The orders of effect and fault.
const (
	EffectBefore Effect = "before" // the work is done, then the response is lost
	EffectAfter  Effect = "after"  // a fault that loses the response also prevents the work
)

// Capacity limits the calls in work and in the queue.
type Capacity struct {
	// Workers is the number of calls in work at once. At least 0; 0 = no limit: no call queues, and
	// ServiceTime does not apply.
	Workers int `yaml:"workers" json:"workers"`
	// ServiceTime is the time that a worker needs for one call, in addition to the latency. 0 = the
	// worker is busy for the call's latency instead.
	ServiceTime time.Duration `yaml:"serviceTime" json:"serviceTime"`
	// Queue is the number of calls that may wait for a worker. At least 0; 0 refuses a call at once
	// when all workers are busy.
	Queue int `yaml:"queue" json:"queue"`
}

// Window overrides a [Spec] from At until At+For. The time counts from the start, the last PUT or
// the last PATCH that names schedule, whichever is latest. Keys that it lacks stay as they are;
// keys that it has count even at zero. FailFirst, HonourDeadline, Effect and GRPC cannot be
// scheduled.
type Window struct {
	At         time.Duration `yaml:"at" json:"at"`   // 0 or more
	For        time.Duration `yaml:"for" json:"for"` // above 0
	ErrorRate  *float64      `yaml:"errorRate,omitempty" json:"errorRate,omitempty"`
	Statuses   []int         `yaml:"statuses,omitempty" json:"statuses,omitempty"`
	RetryAfter *string       `yaml:"retryAfter,omitempty" json:"retryAfter,omitempty"`
	// replaces the whole latency
	Latency      *Latency `yaml:"latency,omitempty" json:"latency,omitempty"`
	ResetRate    *float64 `yaml:"resetRate,omitempty" json:"resetRate,omitempty"`
	TruncateRate *float64 `yaml:"truncateRate,omitempty" json:"truncateRate,omitempty"`
	HangRate     *float64 `yaml:"hangRate,omitempty" json:"hangRate,omitempty"`
	SlowBodyRate *float64 `yaml:"slowBodyRate,omitempty" json:"slowBodyRate,omitempty"`
	// changes the capacity, key by key
	Capacity *CapacityChange `yaml:"capacity,omitempty" json:"capacity,omitempty"`
}

// CapacityChange is a change of the capacity. Only the keys that are present count.
type CapacityChange struct {
	Workers     *int           `yaml:"workers,omitempty" json:"workers,omitempty"`
	ServiceTime *time.Duration `yaml:"serviceTime,omitempty" json:"serviceTime,omitempty"`
	Queue       *int           `yaml:"queue,omitempty" json:"queue,omitempty"`
}

// Default returns the faults that flaky-server starts with: three calls in ten get 503 at once, and
// capacity is unlimited.
func Default() Spec {
	return Spec{
		ErrorRate: 0.3,
		Capacity:  Capacity{ServiceTime: 20 * time.Millisecond},
	}.normalized()
}

// normalized returns a copy of s with its defaults filled in. It shares no memory with s.
func (s Spec) normalized() Spec {
	s = s.clone()
	if len(s.Statuses) == 0 {
		s.Statuses = defaultStatuses()
	}
	if s.Effect == "" {
		s.Effect = EffectBefore
	}
	s.Latency = s.Latency.normalized()
	s.GRPC = s.GRPC.normalized()
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

// clone returns a copy of s that shares no memory with s. A nil schedule becomes an empty one.
func (s Spec) clone() Spec {
	s.Statuses = slices.Clone(s.Statuses)
	s.GRPC.Codes = slices.Clone(s.GRPC.Codes)
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

// at returns the Spec in force after elapsed, without its schedule.
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

// covers reports whether w is open at elapsed. It subtracts instead of adding, because At+For may
// overflow.
func (w Window) covers(elapsed time.Duration) bool {
	return elapsed >= w.At && elapsed-w.At < w.For
}

// nextChange returns how long it takes from elapsed until the next window begins or ends. ok is
// false if there is none.
func (s Spec) nextChange(elapsed time.Duration) (in time.Duration, ok bool) {
	for _, w := range s.Schedule {
		// Differences do not overflow, however long the window is.
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

// MarshalJSON writes the service time as in the document ("20ms"). Package config reads documents,
// JSON included.
func (c Capacity) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Workers     int    `json:"workers"`
		ServiceTime string `json:"serviceTime"`
		Queue       int    `json:"queue"`
	}{c.Workers, c.ServiceTime.String(), c.Queue})
}

// MarshalJSON writes the service time as in the document.
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

// MarshalJSON writes the durations as in the document.
func (w Window) MarshalJSON() ([]byte, error) {
	type plain Window
	return json.Marshal(struct {
		At  string `json:"at"`
		For string `json:"for"`
		plain
	}{w.At.String(), w.For.String(), plain(w)})
}
