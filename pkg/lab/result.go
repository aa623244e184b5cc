package lab

import (
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Result is what an [Experiment] has shown. Times are in the unit of their name.
type Result struct {
	Scenario    string  `json:"scenario"`
	Description string  `json:"description"`
	Load        Load    `json:"load"`
	LengthS     float64 `json:"lengthSeconds"`
	// Disturbance is when it was, in seconds from the start.
	DisturbanceFromS float64 `json:"disturbanceFromSeconds"`
	DisturbanceToS   float64 `json:"disturbanceToSeconds"`
	Figures
	// Series has the figures of every second.
	Series []Second `json:"series"`
}

// Figures are those of a whole run.
type Figures struct {
	// Before, During and After are about the calls that began then, relative to the
	// disturbance.
	Before Part `json:"before"`
	During Part `json:"during"`
	After  Part `json:"after"`
	// Amplification is how many attempts begin for a call: over the whole run, and
	// in the worst second, or in as many before it as it takes for 20 calls.
	Amplification     float64 `json:"amplification"`
	PeakAmplification float64 `json:"peakAmplification"`
	// RecoveryS is the time in seconds from the end of the disturbance until service
	// is good again: from then on, of the calls that begin in each of five seconds
	// in a row, at least 95 % end well. It is looked at every tenth of a second, and
	// nil when that never happens within the run. Calls are counted where they
	// begin, so that neither chance in the number of calls nor old calls that end
	// late are taken for goodput.
	RecoveryS *float64 `json:"recoverySeconds"`
	// Retries are the attempts after a call's first; a retry that was the last
	// attempt of a call that ended well has saved it.
	Retries      uint64 `json:"retries"`
	RetriesSaved uint64 `json:"retriesThatSavedACall"`
	// Opened is how often circuits opened, all clients together.
	Opened uint64 `json:"circuitsOpened"`
	// Probes is how many attempts a half-open circuit of one client had under way at
	// most.
	Probes int `json:"probesAtOnce"`
	// Work is what the upstream did.
	Work Work `json:"upstream"`
	// Calls and Attempts are counted by how they ended.
	Calls    map[resilience.Reason]uint64 `json:"calls"`
	Attempts map[resilience.Reason]uint64 `json:"attempts"`
}

// Part is what became of the calls that began in a part of the run.
type Part struct {
	Calls uint64 `json:"calls"`
	OK    uint64 `json:"ok"`
	// Success is the share of the calls that ended well, 1 when there were none.
	Success float64 `json:"success"`
	// Goodput is the calls that ended well, for each second of the part.
	Goodput float64 `json:"goodputPerSecond"`
	// P50 and P99 are the latencies of the calls that ended well, and FailedP50 and
	// FailedP99 of the others, in milliseconds.
	P50       float64 `json:"p50ms"`
	P99       float64 `json:"p99ms"`
	FailedP50 float64 `json:"failedP50ms"`
	FailedP99 float64 `json:"failedP99ms"`
}

// Work is what the upstream's workers and its line did with attempts.
type Work struct {
	Served  uint64 `json:"served"`  // worked on
	Wasted  uint64 `json:"wasted"`  // of those, for a caller who had gone
	Dropped uint64 `json:"dropped"` // their deadline had passed
	Refused uint64 `json:"refused"` // the line was full
}

// WastedShare is the share of the work that nobody waited for any more.
func (w Work) WastedShare() float64 {
	if w.Served == 0 {
		return 0
	}
	return float64(w.Wasted) / float64(w.Served)
}

// Second is one second of a run.
type Second struct {
	Offered  uint32  `json:"offered"`     // calls that began
	Attempts uint32  `json:"attempts"`    // that began
	Goodput  uint32  `json:"goodput"`     // calls that ended well
	P50      float64 `json:"p50ms"`       // of the latency of those, in milliseconds
	P99      float64 `json:"p99ms"`       //
	Open     int     `json:"openClients"` // clients whose circuit is open as the second ends
	Tokens   float64 `json:"tokens"`      // in the budget of a client as the second ends, on average
}

// RecoveryHolds is for how long service must be good to be called recovered. A run
// that ends sooner after the disturbance cannot show it.
const RecoveryHolds = 5 * time.Second

const (
	goodShare = 0.95 // of the calls, for service to be good
	fewest    = 20   // calls that an amplification is taken of, and that a verdict rests on
)

func (r *run) result(work faults.Stats) *Result {
	rec := r.recorder
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.close()
	d := r.scenario.Disturbance
	result := &Result{
		Scenario: r.scenario.Name, Description: r.scenario.Description, Load: r.load, LengthS: r.load.Length.Seconds(),
		DisturbanceFromS: d.At.Seconds(), DisturbanceToS: d.End().Seconds(),
		Figures: Figures{
			Before:  rec.parts[before].figures(d.At),
			During:  rec.parts[during].figures(d.For),
			After:   rec.parts[after].figures(r.load.Length - d.End()),
			Retries: rec.retries, RetriesSaved: rec.saved, Opened: rec.opened, Probes: rec.probes,
			Work:  Work{Served: work.Served, Wasted: work.Wasted, Dropped: work.Dropped, Refused: work.Refused},
			Calls: rec.calls, Attempts: rec.attempts,
		},
		Series: rec.seconds,
	}
	result.amplify()
	if recovery, ok := recovery(rec.tenths, d.End()); ok {
		result.RecoveryS = new(recovery.Seconds())
	}
	return result
}

func (p *part) figures(length time.Duration) Part {
	f := Part{
		Calls: p.calls, OK: p.ok, Success: 1,
		P50: milliseconds(p.good.quantile(0.5)), P99: milliseconds(p.good.quantile(0.99)),
		FailedP50: milliseconds(p.lost.quantile(0.5)), FailedP99: milliseconds(p.lost.quantile(0.99)),
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
	var offered, attempts float64
	for _, s := range r.Series {
		offered += float64(s.Offered)
		attempts += float64(s.Attempts)
	}
	if offered > 0 {
		r.Amplification = attempts / offered
		r.PeakAmplification = r.Amplification // of fewer than fewest calls
	}
	if offered < fewest {
		return
	}
	r.PeakAmplification = 0
	for end := range r.Series {
		// One second, or as many as it takes for enough calls.
		var calls, made uint32
		for i := end; i >= 0 && calls < fewest; i-- {
			calls += r.Series[i].Offered
			made += r.Series[i].Attempts
		}
		if calls >= fewest {
			r.PeakAmplification = max(r.PeakAmplification, float64(made)/float64(calls))
		}
	}
}

// recovery is the time from end until service is good, as [Figures.RecoveryS] has it.
func recovery(tenths []tally, end time.Duration) (time.Duration, bool) {
	const second = int(time.Second / tenth)
	first := int((end + tenth - 1) / tenth)
	good := func(at int) bool {
		var sum tally
		for _, t := range tenths[at : at+second] {
			sum.offered += t.offered
			sum.ok += t.ok
		}
		return float64(sum.ok) >= goodShare*float64(sum.offered)
	}
	seconds := int(RecoveryHolds / time.Second)
next:
	for at := first; at+seconds*second <= len(tenths); at++ {
		for i := range seconds {
			if !good(at + i*second) {
				continue next
			}
		}
		return time.Duration(at-first) * tenth, true
	}
	return 0, false
}
