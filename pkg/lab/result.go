package lab

import (
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Result is the outcome of an [Experiment]. Times have the unit in their names.
type Result struct {
	Scenario    string  `json:"scenario"`
	Description string  `json:"description"`
	Load        Load    `json:"load"`
	LengthS     float64 `json:"lengthSeconds"`
	// The disturbance, in seconds from the start.
	DisturbanceFromS float64 `json:"disturbanceFromSeconds"`
	DisturbanceToS   float64 `json:"disturbanceToSeconds"`

	// Before, During and After describe the calls that began before, during and after the
	// disturbance.
	Before Part `json:"before"`
	During Part `json:"during"`
	After  Part `json:"after"`
	// Amplification is the number of attempts per call, over the whole run. PeakAmplification is
	// the highest value in any second. A second with fewer than 20 calls is counted together with
	// the seconds before it.
	Amplification     float64 `json:"amplification"`
	PeakAmplification float64 `json:"peakAmplification"`
	// RecoveryS is the time in seconds from the end of the disturbance until service is good again,
	// or nil if that does not happen within the run. Service is good if, in each of five seconds in
	// a row, at least 95 % of the calls that begin end well. The resolution is a tenth of a second.
	// Calls count where they begin. So neither random changes in the number of calls nor old calls
	// that end late look like goodput.
	RecoveryS *float64 `json:"recoverySeconds"`
	// Retries counts the attempts after the first attempt of a call. OKAfterRetry counts the calls
	// that ended well after a retry. That does not mean that the retries saved them: without any,
	// an upstream has less to do. Compare the calls that end well with those of a run without
	// retries and with the same seed.
	Retries      uint64 `json:"retries"`
	OKAfterRetry uint64 `json:"okAfterRetry"`
	// Opened is how often circuits opened, for all clients together.
	Opened uint64 `json:"circuitsOpened"`
	// Ejections is how often an endpoint was ejected, for all clients together.
	Ejections uint64 `json:"ejections"`
	// Probes is the largest number of simultaneous attempts of a half-open circuit.
	Probes int `json:"probesAtOnce"`
	// Work is the work of the upstream.
	Work Work `json:"upstream"`
	// Calls and Attempts are counted by the reason of their end.
	Calls    map[resilience.Reason]uint64 `json:"calls"`
	Attempts map[resilience.Reason]uint64 `json:"attempts"`
	// Series has the figures of every second.
	Series []Second `json:"series"`
}

// Part describes the calls that began in one part of the run.
type Part struct {
	Calls uint64 `json:"calls"`
	OK    uint64 `json:"ok"`
	// Success is the share of calls that ended well; 1 without calls.
	Success float64 `json:"success"`
	// Goodput is the number of calls per second that ended well.
	Goodput float64 `json:"goodputPerSecond"`
	// P50, P99 and P999 (99.9 %) are latencies of the calls that ended well, FailedP50 and
	// FailedP99 of the others, in milliseconds.
	P50       float64 `json:"p50ms"`
	P99       float64 `json:"p99ms"`
	P999      float64 `json:"p999ms"`
	FailedP50 float64 `json:"failedP50ms"`
	FailedP99 float64 `json:"failedP99ms"`
	// AttemptsByInstance counts the attempts that began, for each instance. Those that its address
	// refuses count too. A real-time run has none.
	AttemptsByInstance []uint64 `json:"attemptsByInstance,omitempty"`
}

// Work counts what the upstream's workers and queue did with attempts.
type Work struct {
	Served  uint64 `json:"served"`  // done by a worker
	Wasted  uint64 `json:"wasted"`  // of those, done after the caller had left
	Dropped uint64 `json:"dropped"` // dropped, because their deadline had passed
	Refused uint64 `json:"refused"` // refused, because the queue was full
}

// WastedShare returns the share of the work that was done after the caller had left.
func (w Work) WastedShare() float64 {
	if w.Served == 0 {
		return 0
	}
	return float64(w.Wasted) / float64(w.Served)
}

// Second has the figures of one second of a run.
type Second struct {
	Offered  uint32  `json:"offered"`     // calls that began
	Attempts uint32  `json:"attempts"`    // attempts that began
	Goodput  uint32  `json:"goodput"`     // calls that ended well
	P50      float64 `json:"p50ms"`       // latency of the calls that ended well, in milliseconds
	P99      float64 `json:"p99ms"`       //
	Open     int     `json:"openClients"` // clients with an open circuit at the end of the second
	// endpoints that a client has ejected at the end of the second, all clients together
	Ejected int `json:"ejectedEndpoints"`
	// mean balance of the clients' budgets at the end of the second
	Tokens float64 `json:"tokens"`
}

// RecoveryHolds is how long service must be good to count as recovered. A run must last at least
// that long after the disturbance to show a recovery.
const RecoveryHolds = backend.RecoveryHolds

const minCalls = 20 // calls that a finding needs

func (r *run) result(work faults.Stats) *Result {
	rec := r.recorder
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.close()
	d := r.scenario.Disturbance
	result := &Result{
		Scenario: r.scenario.Name, Description: r.scenario.Description, Load: r.load, LengthS: r.load.Length.Seconds(),
		DisturbanceFromS: d.At.Seconds(), DisturbanceToS: d.End().Seconds(),
		Before:  rec.parts[before].figures(d.At),
		During:  rec.parts[during].figures(d.For),
		After:   rec.parts[after].figures(r.load.Length - d.End()),
		Retries: rec.retries, OKAfterRetry: rec.saved, Probes: rec.probes,
		Work:  Work{Served: work.Served, Wasted: work.Wasted, Dropped: work.Dropped, Refused: work.Refused},
		Calls: rec.calls, Attempts: rec.attempts,
		Series: rec.seconds,
	}
	result.amplify()
	if recovery, ok := backend.Recovery(rec.tenths, d.End()); ok {
		result.RecoveryS = new(recovery.Seconds())
	}
	return result
}

func (p *part) figures(length time.Duration) Part {
	f := Part{
		Calls: p.calls, OK: p.ok, Success: 1,
		P50: backend.Milliseconds(p.good.Quantile(0.5)), P99: backend.Milliseconds(p.good.Quantile(0.99)),
		P999:      backend.Milliseconds(p.good.Quantile(0.999)),
		FailedP50: backend.Milliseconds(p.lost.Quantile(0.5)), FailedP99: backend.Milliseconds(p.lost.Quantile(0.99)),
		AttemptsByInstance: p.attempts,
	}
	if p.calls > 0 {
		f.Success = float64(p.ok) / float64(p.calls)
	}
	if length > 0 {
		f.Goodput = float64(p.ok) / length.Seconds()
	}
	return f
}

func (r *Result) amplify() {
	r.Amplification, r.PeakAmplification = backend.Amplification(len(r.Series), func(i int) (float64, float64) {
		return float64(r.Series[i].Offered), float64(r.Series[i].Attempts)
	})
}
