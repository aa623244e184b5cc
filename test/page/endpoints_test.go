package page_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// The page lists the endpoints of the upstream. The waterfall has the endpoint of each attempt.
func TestEndpoints(t *testing.T) {
	l, at := own(t, page.Options{}, func() []observe.Upstream {
		return []observe.Upstream{{Policy: "default", Upstream: "http://upstream", Endpoints: []endpoint.State{
			{Address: "10.0.0.1:80", Circuit: resilience.Closed, Latency: 20 * time.Millisecond},
			{Address: "10.0.0.2:80", Circuit: resilience.Open, Ejected: true},
		}}}
	})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	c := ended("http://upstream", time.Second, resilience.ReasonOK, 200,
		step{"status_503", time.Millisecond, resilience.Wait{Source: resilience.WaitNextEndpoint}, resilience.Closed},
		step{resilience.ReasonOK, time.Millisecond, resilience.Wait{}, resilience.Closed})
	c.Path, c.Report.Attempts[0].Endpoint, c.Report.Attempts[1].Endpoint = "/two", "10.0.0.2:80", "10.0.0.1:80"
	l.ObserveCall(t.Context(), *c)
	v.pickPath("/two")
	rows := strings.Join(strings.Fields(v.text("endpoint-rows")), " ")
	if want := "10.0.0.1:80 In use 0 % 20.0 ms 10.0.0.2:80 Ejected 0 % –"; rows != want {
		t.Errorf("endpoints = %q, want %q", rows, want)
	}
	waterfall := v.text("waterfall")
	for _, want := range []string{"at 10.0.0.2:80", "at 10.0.0.1:80"} {
		if !strings.Contains(waterfall, want) {
			t.Errorf("waterfall = %q, want %q in it", waterfall, want)
		}
	}
}
