package faults

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/recent"
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

// losesAnswer reports whether the caller does not get the response of the work.
func (f Fault) losesAnswer() bool { return f != FaultNone && f != FaultSlowBody }

// Fate is what happens to one arrival.
type Fate struct {
	// its number, from 1, since the start or the last [Injector.Replace]
	Arrival        uint64
	Fault          Fault         // what goes wrong
	Status         int           // the status for FaultError, otherwise 0
	RetryAfter     string        // as in [Spec.RetryAfter], for an error status
	Latency        time.Duration // how long the answer takes, without the time in a worker
	Service        time.Duration // how long it occupies a worker; 0 without a capacity
	HonourDeadline bool          // as in [Spec.HonourDeadline]
	Effect         Effect        // as in [Spec.Effect]
	GRPC           GRPCFate      // for an arrival over gRPC
}

// TakesEffect reports whether the work of this arrival takes effect, given its fault.
func (f Fate) TakesEffect() bool { return f.Effect == EffectBefore || !f.Fault.losesAnswer() }

// rememberedIDs limits the memory for FailFirst. An id that returns after this many others fails
// again.
const rememberedIDs = 100_000

// Injector decides the fate of each arrival.
//
// The fate of the n-th arrival since the start or the last Replace depends on the seed, on n and on
// the Spec in force at that moment. It does not depend on concurrency or on the fates of other
// arrivals. FailFirst depends on the request id instead of n.
//
// It is safe for concurrent use.
type Injector struct {
	mu       sync.Mutex
	seed     uint64
	spec     Spec // replaced, never changed: readers may keep it
	since    time.Time
	arrivals uint64
	attempts *recent.Counter
}

// New returns an Injector whose schedule starts now. It returns the error of [Spec.Validate] if
// spec is not valid.
func New(spec Spec, seed uint64) (*Injector, error) {
	i := &Injector{seed: seed}
	if err := i.Replace(spec); err != nil {
		return nil, err
	}
	return i, nil
}

// Replace puts spec in force. The schedule, the count of arrivals and the memory of FailFirst start
// again, so the same spec gives the same sequence again. If spec is not valid, it returns the error
// of [Spec.Validate] and changes nothing.
func (i *Injector) Replace(spec Spec) error {
	return i.Amend(spec, Restart{Schedule: true, FailFirst: true, Arrivals: true})
}

// Restart selects the parts that start again when the Spec changes. The zero value selects no
// part.
type Restart struct {
	Schedule  bool // the windows count from the change
	FailFirst bool // every request id counts as new
	Arrivals  bool // the next arrival is number 1
}

// Amend puts spec in force. The schedule, the count of arrivals and the memory of FailFirst
// continue, except for those in restart. If spec is not valid, it returns the error of
// [Spec.Validate] and changes nothing.
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
		i.attempts = recent.NewCounter(rememberedIDs)
	}
	if restart.Arrivals {
		i.arrivals = 0
	}
	return nil
}

// Seed returns the seed of the fates.
func (i *Injector) Seed() uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seed
}

// Reseed sets the seed of the fates, and starts again at the first arrival.
func (i *Injector) Reseed(seed uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.seed, i.arrivals = seed, 0
}

// Spec returns the Spec in force, with its defaults filled in. The caller may change it.
func (i *Injector) Spec() Spec {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.clone()
}

// Capacity returns the capacity in force at this moment of the schedule, for a [Queue].
func (i *Injector) Capacity() Capacity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.at(time.Since(i.since)).Capacity
}

// NextChange returns how long it takes until the next window of the schedule begins or ends. ok is
// false if there is none.
func (i *Injector) NextChange() (in time.Duration, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.spec.nextChange(time.Since(i.since))
}

// Next decides the fate of one arrival. requestID is the id of the request that it is an attempt
// of.
func (i *Injector) Next(requestID string) Fate {
	spec, seed, arrival, attempt := i.arrive(requestID)
	return spec.fate(seed, arrival, attempt)
}

// Fate decides the fate of the arrival with a number, from 1, at this moment of the schedule. It
// counts no arrival, and FailFirst does not apply. A simulator that knows its arrivals by numbers
// of its own uses it in place of Next.
func (i *Injector) Fate(arrival uint64) Fate {
	i.mu.Lock()
	spec, seed := i.spec.at(time.Since(i.since)), i.seed
	i.mu.Unlock()
	spec.FailFirst = 0
	return spec.fate(seed, arrival, 0)
}

func (s Spec) fate(seed, arrival uint64, attempt int) Fate {
	// Every arrival has its own random stream, and always draws from it in the same order. So a
	// change of one rate does not change the latencies and the choice of statuses. The fault
	// depends on that rate and on those before it in the list.
	rng := rand.New(rand.NewPCG(seed, arrival))
	chance, choice := rng.Float64(), rng.Float64()
	fate := Fate{
		Arrival:        arrival,
		Fault:          s.fault(chance, attempt),
		RetryAfter:     s.RetryAfter,
		Latency:        s.Latency.Sample(rng),
		HonourDeadline: s.HonourDeadline,
		Effect:         s.Effect,
	}
	if fate.Fault == FaultError {
		fate.Status = s.Statuses[int(choice*float64(len(s.Statuses)))]
	}
	fate.GRPC = s.GRPC.fate(fate.Fault, fate.Status, choice)
	switch c := s.Capacity; {
	case c.Workers == 0:
	case c.ServiceTime > 0:
		fate.Service = c.ServiceTime
	default:
		fate.Service, fate.Latency = fate.Latency, 0
	}
	return fate
}

// arrive counts one arrival and returns what is in force for it. attempt is 0 if FailFirst is off.
func (i *Injector) arrive(requestID string) (spec Spec, seed, arrival uint64, attempt int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.arrivals++
	if i.spec.FailFirst > 0 {
		attempt = i.attempts.Next(requestID)
	}
	return i.spec.at(time.Since(i.since)), i.seed, i.arrivals, attempt
}

// fault divides [0, 1) among the rates: each owns a piece as long as its rate, in order. If a rate
// grows, the pieces after it move.
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
