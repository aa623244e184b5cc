package resilience

import (
	"math"
	"time"
)

// Circuit is a circuit breaker outside a [Pipeline], such as that of one endpoint. It has the same
// states, and the same rules to change them. It is safe for concurrent use.
type Circuit struct{ breaker *breaker }

// NewCircuit returns a closed circuit. random is uniform in [0, 1) and safe for concurrent use.
// notify, if not nil, is called after each change of state, in order and without a lock; it must
// not block. If p is not valid, the error lists all its mistakes.
func NewCircuit(name string, p BreakerPolicy, random func() float64, notify func(Transition)) (*Circuit, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	return &Circuit{newBreaker(name, p, random, notify)}, nil
}

// Validate returns all mistakes in p at once, each with the path of its key, or nil.
func (p BreakerPolicy) Validate() error {
	m := p.mistakes()
	return m.Err()
}

// State returns the circuit's state. It takes no lock.
func (c *Circuit) State() State { return State(c.breaker.current.Load() & 3) }

// Snapshot returns the state and the counts of the circuit.
func (c *Circuit) Snapshot() BreakerSnapshot { return c.breaker.snapshot() }

// Retire stops the calls of notify.
func (c *Circuit) Retire() { c.breaker.retire() }

// Admission is the permission for one attempt. It must not be copied after its first use.
type Admission struct {
	ticket ticket
	clock  clock
}

// unknown is when the attempt of an Admission began: Admit reads no clock. A result without a begin
// counts at the time of Settle.
const unknown = time.Duration(math.MinInt64 / 2)

// Admit fills a with the permission for an attempt through a closed circuit. The result of an
// attempt that begins in another state does not count. Admit takes no lock and allocates nothing.
func (c *Circuit) Admit(a *Admission) {
	if v := c.breaker.current.Load(); State(v&3) == Closed {
		a.ticket = ticket{breaker: c.breaker, generation: v >> 2, at: unknown}
	}
}

// Probe fills a with the permission to probe a half-open circuit, and reports whether there was
// one. The probe counts as a failure if it is not settled within lease, or as a success if
// [Admission.Answered] was called. After 10 s of a longer lease it only gives its slot to the next
// one, and still counts when it is settled.
func (c *Circuit) Probe(a *Admission, lease time.Duration) bool {
	_, err := c.breaker.allow(&a.ticket, time.Now(), lease, notBusy{}, &a.clock)
	return err == nil
}

// ProbeNow ends the open period of an open circuit, which becomes half-open. The next period is as
// long as otherwise.
func (c *Circuit) ProbeNow() { c.breaker.probeNow() }

// Answered records that a good answer has begun, whose end may take longer than the lease.
func (a *Admission) Answered() { a.ticket.answered.Store(true) }

// Settle reports the health of the attempt. Only the first call counts.
func (a *Admission) Settle(h Health) { a.ticket.settle(h, time.Now()) }

// notBusy is a caller that an attempt never waits for.
type notBusy struct{}

func (notBusy) callerBusy() bool { return false }

func (notBusy) doubtful() bool { return false }
