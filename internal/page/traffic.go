package live

import (
	"net/http"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/problem"
)

// Traffic is a generator of calls that the page may steer. It must be safe for
// concurrent use, and quick.
type Traffic interface {
	// Set changes what is sent from now on. Its error says which value is wrong.
	Set(TrafficSettings) error
	State() TrafficState
}

// Path is which way generated calls take.
type Path string

// The paths.
const (
	PathWith    Path = "with"    // through the gateway, under its policy
	PathWithout Path = "without" // straight to the upstream, one attempt each
	PathBoth    Path = "both"    // the same calls both ways, to compare
)

// TrafficSettings is what a generator is asked to do.
type TrafficSettings struct {
	PerSecond int  `json:"perSecond" yaml:"perSecond"` // 0 for none
	Path      Path `json:"path" yaml:"path"`
}

// TrafficState is what it does, and what came of it in the last ten seconds.
type TrafficState struct {
	TrafficSettings
	Limit   int           `json:"limit"` // of PerSecond
	With    TrafficResult `json:"with"`
	Without TrafficResult `json:"without"`
}

// TrafficResult counts calls as their caller saw them end, in the last ten seconds.
type TrafficResult struct {
	Ended int `json:"ended"`
	Good  int `json:"good"` // answered with 2xx, whole
	// NotSent is how many were left out because too many were still waiting for an answer.
	NotSent int `json:"notSent,omitempty"`
}

// traffic is nil without a generator.
func (l *Live) traffic() *TrafficState {
	if l.options.Traffic == nil {
		return nil
	}
	state := l.options.Traffic.State()
	return &state
}

func (l *Live) serveTraffic(w http.ResponseWriter, r *http.Request) {
	if l.options.Traffic == nil {
		problem.Write(w, problem.Problem{Status: http.StatusNotFound, Detail: "only the demo makes traffic of its own"})
		return
	}
	if r.Method == http.MethodPut {
		body, ok := readBody(w, r)
		if !ok {
			return
		}
		settings := l.options.Traffic.State().TrafficSettings
		err := config.Decode("traffic", body, &settings)
		if err == nil {
			err = l.options.Traffic.Set(settings)
		}
		if err != nil {
			problem.Write(w, problem.Problem{Status: http.StatusBadRequest, Detail: err.Error()})
			return
		}
	}
	writeJSON(w, l.options.Traffic.State())
}
