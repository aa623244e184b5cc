package page

import (
	"net/http"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/problem"
)

// Traffic is a generator of calls that the page can control. It must be safe for concurrent use,
// and its methods must be quick.
type Traffic interface {
	// Set changes the traffic from now on. Its error names the wrong value.
	Set(TrafficSettings) error
	State() TrafficState
}

// Path selects how generated calls reach the upstream.
type Path string

// The paths.
const (
	PathWith    Path = "with"    // through the gateway, under its policy
	PathWithout Path = "without" // directly to an upstream of its own, with one attempt each
	PathBoth    Path = "both"    // each call both ways, to compare them
)

// TrafficSettings configures a generator.
type TrafficSettings struct {
	PerSecond int  `json:"perSecond" yaml:"perSecond"` // 0 for no traffic
	Path      Path `json:"path" yaml:"path"`
	// Sick is how many endpoints of the upstreams answer 503 to everything. It is also written if
	// it is 0: a setting that is left out stays as it is.
	Sick int `json:"sick" yaml:"sick"`
}

// TrafficState is a generator's settings and its results in the last ten seconds, or since the
// faults or the path changed if that is less.
type TrafficState struct {
	TrafficSettings
	Limit   int     `json:"limit"`             // the maximum of PerSecond
	MaxSick int     `json:"maxSick,omitempty"` // the maximum of Sick
	Seconds float64 `json:"seconds"`           // that the results cover, 0 to 10
	// Elsewhere tells that the calls with the policy reach an upstream that is not the generator's,
	// or that no route leads to one, so that both ways cannot be compared.
	Elsewhere bool          `json:"elsewhere,omitempty"`
	With      TrafficResult `json:"with"`
	Without   TrafficResult `json:"without"`
}

// TrafficResult counts calls, as their caller saw them, and attempts, as the upstream saw them.
type TrafficResult struct {
	Sent     int `json:"sent"`
	Ended    int `json:"ended"`
	Good     int `json:"good"` // answered completely, with 2xx
	Attempts int `json:"attempts"`
	// P50 and P99 are the median and the 99th percentile of the time until a call ended, in
	// milliseconds. They are 0 if none ended.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	// NotSent counts calls that were skipped because too many others had no answer yet.
	NotSent int `json:"notSent,omitempty"`
}

// traffic returns the generator's state, or nil without a generator.
func (p *Page) traffic() *TrafficState {
	if p.options.Traffic == nil {
		return nil
	}
	state := p.options.Traffic.State()
	return &state
}

func (p *Page) serveTraffic(w http.ResponseWriter, r *http.Request) {
	if p.options.Traffic == nil {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "there is no traffic generator: only the demo has one"})
		return
	}
	if r.Method == http.MethodPut {
		body, ok := readBody(w, r)
		if !ok {
			return
		}
		settings := p.options.Traffic.State().TrafficSettings
		err := config.Decode("traffic", body, &settings)
		if err == nil {
			err = p.options.Traffic.Set(settings)
		}
		if err != nil {
			problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: err.Error()})
			return
		}
		if p.faults != nil {
			p.faults.noteSick(p.options.Traffic)
		}
	}
	writeJSON(w, p.options.Traffic.State())
}
