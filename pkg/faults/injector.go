package faults

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Fault is what goes wrong with a call.
type Fault string

// The faults. An [Injector] deals out all but the last two, which a [Queue] decides.
const (
	FaultNone     Fault = "none"      // no fault
	FaultError    Fault = "error"     // an error status
	FaultReset    Fault = "reset"     // the connection is reset before any byte
	FaultTruncate Fault = "truncate"  // the connection dies after half the body
	FaultHang     Fault = "hang"      // the call is never answered
	FaultSlowBody Fault = "slow_body" // the body arrives complete, but slowly
	// the call is refused: all workers are busy and the queue is full
	FaultOverload Fault = "overload"
	FaultDropped  Fault = "dropped" // the caller's deadline had passed when the call's turn came
)

// LosesAnswer reports whether the caller does not get the response of the work.
func (f Fault) LosesAnswer() bool { return f != FaultNone && f != FaultSlowBody }

// Fate is what happens to one arrival.
type Fate struct {
	Arrival        uint64        // which one it is, from 1, since the start or the last [Injector.Replace]
	Fault          Fault         // what goes wrong
	Status         int           // the status of FaultError, otherwise 0
	RetryAfter     string        // as in [Spec.RetryAfter], for an answer with an error status
	Latency        time.Duration // how long the answer takes, without a worker
	Service        time.Duration // how long a worker is busy with it; 0 without a capacity
	HonourDeadline bool          // as in [Spec.HonourDeadline]
	Effect         Effect        // as in [Spec.Effect]
}

// TakesEffect reports whether the work of this arrival takes effect, given its fault.
func (f Fate) TakesEffect() bool { return f.Effect == EffectBefore || !f.Fault.LosesAnswer() }

// rememberedIDs bounds the memory behind FailFirst. An id that comes back after as many others fails again.
const rememberedIDs = 100_000

// Injector decides the fate of each arrival.
//
// The n-th arrival since the start or the last Replace has a fate that depends on the seed, on n and on what is in
// force at that moment, and on nothing else: not on concurrency, and not on what was drawn for others. FailFirst
// depends on the request id instead of n.
//
// It is safe for concurrent use.
type Injector struct {
	mu       sync.Mutex
	seed     uint64
	spec     Spec // never written to, only replaced: what was handed out of it stays readable
	since    time.Time
	arrivals uint64
	attempts *Attempts
}

// New returns an Injector whose schedule starts now. It refuses a spec that [Spec.Validate] refuses.
func New(spec Spec, seed uint64) (*Injector, error) {
	i := &Injector{seed: seed}
	if err := i.Replace(spec); err != nil {
		return nil, err
	}
	return i, nil
}

// Replace puts spec in force from now on: the schedule, the count of arrivals and the memory of failFirst start
// again, so that the same spec gives the same sequence again. A spec that [Spec.Validate] refuses changes
// nothing.
func (i *Injector) Replace(spec Spec) error {
	return i.Amend(spec, Restart{Schedule: true, FailFirst: true, Arrivals: true})
}

// Restart says what begins anew with a change of the Spec. The zero value lets everything go on.
type Restart struct {
	Schedule  bool // its windows count from the change
	FailFirst bool // every request id is a new one
	Arrivals  bool // the next arrival is the first
}

// Amend puts spec in force from now on, as a change of what is there: the schedule, the memory of failFirst and the
// count of arrivals go on, but for what restart says. A spec that [Spec.Validate] refuses changes nothing.
func (i *Injector) Amend(spec Spec, restart Restart) error {
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	spec = spec.normalized()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.spec = spec
	if restart.Schedule {
		i.since = time.Now()
	}
	if restart.FailFirst {
		i.attempts = NewAttempts(rememberedIDs)
	}
	if restart.Arrivals {
		i.arrivals = 0
	}
	return nil
}

// Seed is the one that fates are drawn from.
func (i *Injector) Seed() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seed
}

// Reseed draws fates from another seed, from the first arrival again.
func (i *Injector) Reseed(seed uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seed, i.arrivals = seed, 0
}

// Spec is the whole document in force, with its defaults written out. The caller may change it.
func (i *Injector) Spec() Spec {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.clone()
}

// Capacity is the capacity at this moment of the schedule. A [Queue] asks for it.
func (i *Injector) Capacity() Capacity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.at(time.Since(i.since)).Capacity
}

// NextChange is how long it takes until the next window of the schedule begins or ends, or false when none will.
func (i *Injector) NextChange() (in time.Duration, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.nextChange(time.Since(i.since))
}

// Next decides the fate of one arrival, an attempt of the request with this id.
func (i *Injector) Next(requestID string) Fate {
	spec, seed, arrival, attempt := i.arrive(requestID)

	// Every arrival has a stream of its own, and draws from it in one order whatever the rates are: a change of
	// one rate leaves latencies and the choice of statuses as they were. Which fault an arrival gets depends on
	// that rate and on those dealt out before it.
	rng := rand.New(rand.NewPCG(seed, arrival))
	chance, choice := rng.Float64(), rng.Float64()
	fate := Fate{
		Arrival:        arrival,
		Fault:          spec.fault(chance, attempt),
		RetryAfter:     spec.RetryAfter,
		Latency:        spec.Latency.Sample(rng),
		HonourDeadline: spec.HonourDeadline,
		Effect:         spec.Effect,
	}
	if fate.Fault == FaultError {
		fate.Status = spec.Statuses[int(choice*float64(len(spec.Statuses)))]
	}
	switch c := spec.Capacity; {
	case c.Workers == 0:
	case c.ServiceTime > 0:
		fate.Service = c.ServiceTime
	default:
		fate.Service, fate.Latency = fate.Latency, 0
	}
	return fate
}

// arrive counts one arrival and tells what is in force for it. The attempt is 0 when nobody asks.
func (i *Injector) arrive(requestID string) (spec Spec, seed, arrival uint64, attempt int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.arrivals++
	if i.spec.FailFirst > 0 {
		attempt = i.attempts.Next(requestID)
	}
	return i.spec.at(time.Since(i.since)), i.seed, i.arrivals, attempt
}

// fault deals out the rates side by side: each owns a piece of [0, 1) as long as it is likely. A rate that grows
// pushes the pieces of those behind it along.
func (s Spec) fault(chance float64, attempt int) Fault {
	if s.FailFirst > 0 {
		if attempt <= s.FailFirst {
			return FaultError
		}
		return FaultNone
	}
	for _, r := range s.rates() {
		if chance < r.value {
			return r.fault
		}
		chance -= r.value
	}
	return FaultNone
}
