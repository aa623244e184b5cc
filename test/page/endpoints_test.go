package page_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// Changes of the shown upstream's endpoints are listed among those of its circuit, and marked on
// the time axis. Those of others are not.
func TestEndpointChanges(t *testing.T) {
	t.Parallel()
	const shown = "http://upstream"
	l, at := own(t, page.Options{}, func() []observe.Upstream { return []observe.Upstream{{Policy: "default", Upstream: shown}} })
	began := time.Now()
	tell := func(upstream string, ago time.Duration, e endpoint.Event) {
		e.At = began.Add(-ago)
		l.ObserveEndpoint(observe.EndpointEvent{Upstream: upstream, Event: e})
	}
	tell(shown, 30*time.Second, endpoint.Event{Kind: endpoint.EventAdded, Address: "10.0.0.2:80"})
	tell(shown, 25*time.Second, endpoint.Event{Kind: endpoint.EventEjected, Address: "10.0.0.1:80", For: 1500 * time.Millisecond})
	tell(shown, 20*time.Second, endpoint.Event{Kind: endpoint.EventEjected, Address: "10.0.0.3:80"}) // its probe is due
	tell(shown, 15*time.Second, endpoint.Event{Kind: endpoint.EventPanic})
	tell("http://other", 14*time.Second, endpoint.Event{Kind: endpoint.EventPanic})
	l.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{
		Upstream: shown, From: resilience.Closed, To: resilience.Open, At: began.Add(-12 * time.Second), Consecutive: 10, Failures: 10,
	}})
	v := visit(t, at, 1440, false)
	v.until(isLive)
	v.until(`document.querySelectorAll("#transitions li").length === 5`)
	// While the page is open:
	tell(shown, 10*time.Second, endpoint.Event{Kind: endpoint.EventCalm})
	tell(shown, 9*time.Second, endpoint.Event{Kind: endpoint.EventReturned, Address: "10.0.0.1:80"})
	tell(shown, 5*time.Second, endpoint.Event{Kind: endpoint.EventLookup, Err: errors.New("no <b>such</b> host")})
	tell(shown, 4*time.Second, endpoint.Event{Kind: endpoint.EventRemoved, Address: "10.0.0.2:80"})
	v.until(`document.querySelectorAll("#transitions li").length === 9`)
	got := eval[[]string](v, `[...document.querySelectorAll("#transitions li")].map((e) => [...e.children].slice(1).map((e) => e.textContent).join(" "))`)
	want := []string{
		"Endpoint removed 10.0.0.2:80",
		"Lookup failed the addresses before stay in use: no <b>such</b> host",
		"Endpoint returned 10.0.0.1:80",
		"Few endpoints fail again so the failing ones may be ejected",
		"Closed → open ",
		"Too many endpoints fail more than may be ejected, so none is",
		"Endpoint ejected 10.0.0.3:80",
		"Endpoint ejected 10.0.0.1:80, for 1.50 s",
		"Endpoint added 10.0.0.2:80",
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("changes =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	marks := eval[[]string](v, `[...document.querySelectorAll("line.endpoint-tick")].map((e) => e.getAttribute("class").replace("endpoint-tick ", ""))`)
	if len(marks) != 8 || marks[0] != "is-good" || marks[1] != "is-bad" || marks[2] != "is-bad" {
		t.Errorf("marks on the axis = %q, want 8, two of them of the ejections", marks)
	}
	places := eval[[]float64](v, `[...document.querySelectorAll("line.endpoint-tick")].map((e) => Number(e.getAttribute("x1")))`)
	if !slices.IsSorted(places) || len(slices.Compact(slices.Clone(places))) != len(places) {
		t.Errorf("places of the marks = %v, want them in order of time, apart", places)
	}
}

// The page lists the endpoints of the upstream, the worst first. The waterfall has the endpoint of
// each attempt.
func TestEndpoints(t *testing.T) {
	t.Parallel()
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
	if want := "10.0.0.2:80 Ejected 0 % – 10.0.0.1:80 In use 0 % 20.0 ms"; rows != want {
		t.Errorf("endpoints = %q, want %q", rows, want)
	}
	waterfall := v.text("waterfall")
	for _, want := range []string{"at 10.0.0.2:80", "at 10.0.0.1:80"} {
		if !strings.Contains(waterfall, want) {
			t.Errorf("waterfall = %q, want %q in it", waterfall, want)
		}
	}
}

// The rows used to be replaced by every update, so that an address could not be selected. They move
// with their state and keep their elements. When a sick one was well again, all others moved.
func TestEndpointsCanBeSelected(t *testing.T) {
	t.Parallel()
	var (
		mu   sync.Mutex
		sick bool
	)
	_, at := own(t, page.Options{}, func() []observe.Upstream {
		mu.Lock()
		defer mu.Unlock()
		all := []endpoint.State{{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80"}}
		if sick {
			all = []endpoint.State{{Address: "10.0.0.1:80"}, {Address: "10.0.0.2:80", Circuit: resilience.Open, Ejected: true}, {Address: "10.0.0.3:80"}}
		}
		return []observe.Upstream{{Policy: "default", Upstream: "http://upstream", Endpoints: all}}
	})
	v := visit(t, at, 1440, false)
	addresses := func(want string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("#endpoint-rows tr")].map((r) => r.cells[0].innerText + " " + r.cells[1].innerText.trim()).join(", ") === %q`, want)
	}
	v.until(isLive + ` && ` + addresses("10.0.0.1:80 In use, 10.0.0.2:80 In use"))
	_ = eval[bool](v, `(getSelection().selectAllChildren(document.querySelector("#endpoint-rows td")), true)`)
	mu.Lock()
	sick = true
	mu.Unlock()
	v.until(addresses("10.0.0.2:80 Ejected, 10.0.0.1:80 In use, 10.0.0.3:80 In use"))
	if got := eval[string](v, `getSelection().toString().trim()`); got != "10.0.0.1:80" {
		t.Errorf("selection = %q after an update, want the address", got)
	}
	mu.Lock()
	sick = false
	mu.Unlock()
	v.until(addresses("10.0.0.1:80 In use, 10.0.0.2:80 In use"))
	if got := eval[string](v, `getSelection().toString().trim()`); got != "10.0.0.1:80" {
		t.Errorf("selection = %q after the way back, want the address", got)
	}
}
