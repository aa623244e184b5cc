package live

import (
	"slices"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// maxEndpoints is how many endpoints of an upstream are shown, so that an update stays small.
const maxEndpoints = 24

// endpointShown is one endpoint of an upstream, whatever the policy.
type endpointShown struct {
	Address  string  `json:"address"`
	State    string  `json:"state"`             // in_use, ejected, probing (ejected too), or failing (kept)
	Share    float64 `json:"share"`             // of the upstream's requests in the window
	Latency  float64 `json:"latency,omitempty"` // ms, a recent average
	InFlight int64   `json:"inFlight,omitempty"`
}

// endpointChange is a change of an endpoint in the form that readers get.
type endpointChange struct {
	At       float64            `json:"at"`
	Upstream string             `json:"upstream"`
	Change   endpoint.EventKind `json:"change"`
	Endpoint string             `json:"endpoint,omitempty"` // its address, unless all are meant
	EjectFor float64            `json:"ejectFor,omitempty"` // ms, until the first probe
	Error    string             `json:"error,omitempty"`    // of a lookup
}

func (l *Live) newEndpointChange(e *observe.EndpointEvent) *endpointChange {
	c := &endpointChange{
		At: l.millis(e.At), Upstream: e.Upstream, Change: e.Kind, Endpoint: cut(e.Address, maxHost), EjectFor: milliseconds(e.For),
	}
	if e.Err != nil {
		c.Error = cut(e.Err.Error(), maxError)
	}
	return c
}

type endpointKey struct{ upstream, address string }

// requestCounts are the endpoints' requests so far, at the begin of a second.
type requestCounts struct {
	second int64
	of     map[endpointKey]uint64
}

// countRequests keeps the endpoints' counts once a second.
func (l *Live) countRequests(second int64) {
	slot := &l.requests[second%int64(len(l.requests))]
	if slot.of != nil && slot.second == second {
		return
	}
	*slot = requestCounts{second, map[endpointKey]uint64{}}
	for i := range l.states {
		for j := range l.states[i].Endpoints {
			e := &l.states[i].Endpoints[j]
			slot.of[endpointKey{l.states[i].Upstream, e.Address}] = e.Requests
		}
	}
}

// endpointsOf returns those of u, bad ones first if there is no room for all, and how many it
// omits.
func (l *Live) endpointsOf(u *observe.Upstream, second int64) (shown []endpointShown, omitted int) {
	var before map[endpointKey]uint64 // the oldest counts in the window
	for n := max(0, second-WindowSeconds); n <= second && before == nil; n++ {
		if slot := &l.requests[n%int64(len(l.requests))]; slot.second == n {
			before = slot.of
		}
	}
	sum := 0.0
	for i := range u.Endpoints {
		e := &u.Endpoints[i]
		n := e.Requests
		// A new endpoint has no earlier count. One that came back starts again at 0.
		if old := before[endpointKey{u.Upstream, e.Address}]; old <= n {
			n -= old
		}
		sum += float64(n)
		shown = append(shown, endpointShown{
			Address: cut(e.Address, maxHost), State: endpointState(e), Share: float64(n),
			Latency: milliseconds(e.Latency), InFlight: e.InFlight,
		})
	}
	for i := range shown {
		shown[i].Share /= max(sum, 1)
	}
	if omitted = len(shown) - maxEndpoints; omitted <= 0 {
		return shown, 0
	}
	good := func(e endpointShown) int {
		if e.State == "in_use" {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(shown, func(a, b endpointShown) int { return good(a) - good(b) })
	return shown[:maxEndpoints], omitted
}

func endpointState(e *endpoint.State) string {
	switch {
	case e.Ejected && e.Circuit == resilience.HalfOpen:
		return "probing"
	case e.Ejected:
		return "ejected"
	case e.Circuit != resilience.Closed:
		return "failing" // kept: too many fail, or it is the only one
	}
	return "in_use"
}
