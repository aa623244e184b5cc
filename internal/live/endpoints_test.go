package live

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The share of an endpoint is that of the last ten seconds. A bad endpoint is among those shown.
func TestEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []endpoint.State{
			{Address: "a:1", Circuit: resilience.Closed, Requests: 1000, Latency: 20 * time.Millisecond},
			{Address: "b:1", Circuit: resilience.Open, Ejected: true},
			{Address: "c:1", Circuit: resilience.HalfOpen, Ejected: true},
			{Address: "d:1", Circuit: resilience.Open},
			{Address: "e:1", Circuit: resilience.HalfOpen},
		}
		l := New()
		l.Attach(func() []observe.Upstream {
			return []observe.Upstream{{Policy: "p", Upstream: "http://u", Endpoints: append([]endpoint.State(nil), all...)}}
		})
		gather := func(d time.Duration) {
			for range d / gatherEvery {
				time.Sleep(gatherEvery)
				l.gather()
			}
		}
		gather(15 * time.Second)
		all[0].Requests, all[3].Requests = all[0].Requests+30, 10
		gather(time.Second)
		want := []endpointShown{
			{Address: "a:1", State: "in_use", Share: 0.75, Latency: 20},
			{Address: "b:1", State: "ejected"},
			{Address: "c:1", State: "probing"},
			{Address: "d:1", State: "failing", Share: 0.25},
			{Address: "e:1", State: "failing"},
		}
		got := l.State().Series[0].Endpoints
		if len(got) != len(want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("endpoint %d: got %+v, want %+v", i, got[i], want[i])
			}
		}

		good := all[0]
		all = nil
		for range maxEndpoints + 5 {
			all = append(all, good)
		}
		all = append(all, endpoint.State{Address: "bad:1", Circuit: resilience.Open, Ejected: true})
		gather(time.Second)
		s := l.State().Series[0]
		if len(s.Endpoints) != maxEndpoints || s.EndpointsOmitted != 6 || s.Endpoints[0].Address != "bad:1" {
			t.Errorf("got %d endpoints without %d, want %d without 6, the bad one first", len(s.Endpoints), s.EndpointsOmitted, maxEndpoints)
		}
	})
}
