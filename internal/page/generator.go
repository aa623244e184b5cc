package page

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The bounds of the demo's traffic: enough to see everything, and never a load.
const (
	maxTraffic  = 200 // calls a second, each way
	maxInFlight = 400 // waiting for their answer, each way
	trafficLag  = 10  // seconds that results are summed up over
	maxCatchUp  = 100 * time.Millisecond

	headerGenerated = "Rebound-Generated" // in which a generated call names its way and its era
	headerAttempts  = "X-Attempt-Count"   // in which the client tells how many attempts it made
)

// Generator makes calls to a client, to an upstream like the one behind it, or to both, at an even
// rate. It is for the demo, which listens on loopback only. It is safe for concurrent use.
type Generator struct {
	client  *http.Client
	maxSick int
	targets [2]*target // with the policy, without
	changed chan struct{}

	mu       sync.Mutex
	settings TrafficSettings
	began    time.Time // of the era
}

// target is one way that calls take.
type target struct {
	slots chan struct{}
	urls  []string
	sent  int

	mu sync.Mutex
	// era numbers the results. Calls and attempts of an earlier one do not count: other faults were
	// in force when they were sent.
	era     int
	seconds [trafficLag]generatedSecond
	counted bool // an attempt at a call of this era has come
	placed  bool // an answer to a call of this era has shown which upstream it reached, or that none
}

type generatedSecond struct {
	number                               int64
	sent, ended, good, notSent, attempts int
	took                                 []time.Duration // of the ended calls
}

// NewGenerator makes a generator that sends perSecond, 0 to 200, both ways. It sends nothing before
// [Generator.Run]. A call is given up after timeout. Up to maxSick endpoints can be sick.
func NewGenerator(perSecond, maxSick int, timeout time.Duration) (*Generator, error) {
	t := &Generator{
		maxSick: maxSick,
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: timeout}).DialContext,
			MaxIdleConnsPerHost: maxInFlight,
			IdleConnTimeout:     time.Minute,
		},
			// A redirect is an answer. To follow it would be a call past the policy.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		changed:  make(chan struct{}, 1),
		settings: TrafficSettings{Path: PathBoth},
	}
	for i := range t.targets {
		t.targets[i] = &target{slots: make(chan struct{}, maxInFlight)}
	}
	return t, t.Set(TrafficSettings{PerSecond: perSecond, Path: PathBoth})
}

// Set changes the settings from now on. The next call is due one interval of the new rate after the
// last call. Further changes in between do not restart the interval. With another path, or more or
// fewer sick endpoints, the results begin anew.
func (t *Generator) Set(s TrafficSettings) error {
	if s.PerSecond < 0 || s.PerSecond > maxTraffic {
		return fmt.Errorf("perSecond: must be from 0 to %d, got %d", maxTraffic, s.PerSecond)
	}
	switch s.Path {
	case PathWith, PathWithout, PathBoth:
	default:
		return fmt.Errorf("path: must be %s, %s or %s, got %q", PathWith, PathWithout, PathBoth, s.Path)
	}
	if s.Sick < 0 || s.Sick > t.maxSick {
		return fmt.Errorf("sick: must be from 0 to %d, got %d", t.maxSick, s.Sick)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.Path != t.settings.Path || s.Sick != t.settings.Sick {
		t.forget()
	}
	t.settings = s
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return nil
}

// Forget begins the results anew, with the calls that are sent from now on. Call it when the faults
// change: results of the time before would be mixed with those of the time after.
func (t *Generator) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
}

// forget must be called with t.mu.
func (t *Generator) forget() {
	t.began = time.Now()
	for _, way := range t.targets {
		way.forget()
	}
}

// State returns the settings and the recent results.
func (t *Generator) State() TrafficState {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	s := TrafficState{TrafficSettings: t.settings, Limit: maxTraffic, MaxSick: t.maxSick}
	s.With, s.Without = t.targets[0].sum(now.Unix()), t.targets[1].sum(now.Unix())
	s.Seconds = min(trafficLag, now.Sub(t.began).Seconds())
	s.Elsewhere = t.targets[0].elsewhere()
	return s
}

// Sick returns how many endpoints answer 503 to everything, as set.
func (t *Generator) Sick() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.settings.Sick
}

// Counted returns the handler of an upstream that counts the attempts at generated calls.
func (t *Generator) Counted(upstream http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		way, era, _ := strings.Cut(r.Header.Get(headerGenerated), " ")
		for i, path := range []Path{PathWith, PathWithout} {
			if n, err := strconv.Atoi(era); err == nil && way == string(path) {
				t.targets[i].attempt(n)
			}
		}
		upstream.ServeHTTP(w, r)
	})
}

// Run sends calls to the client's URL, and to the URLs of the other upstream's endpoints in turn,
// until ctx ends and the last call has.
func (t *Generator) Run(ctx context.Context, client string, upstream ...string) {
	var calls sync.WaitGroup
	defer t.client.CloseIdleConnections()
	defer calls.Wait()
	t.targets[0].urls, t.targets[1].urls = []string{client}, upstream
	t.Forget()
	next := time.NewTimer(0)
	defer next.Stop()
	var last time.Time // when a call was due last
	for changed := time.Now(); ; {
		t.mu.Lock()
		s := t.settings
		t.mu.Unlock()
		var at time.Time
		var due <-chan time.Time // never, without a rate
		if s.PerSecond > 0 {
			at = last.Add(time.Second / time.Duration(s.PerSecond))
			// A little late is made up for; a long stall is not, nor what another rate would have
			// sent.
			for _, earliest := range []time.Time{time.Now().Add(-maxCatchUp), changed} {
				if at.Before(earliest) {
					at = earliest
				}
			}
			next.Reset(time.Until(at))
			due = next.C
		}
		select {
		case <-ctx.Done():
			return
		case <-t.changed:
			changed = time.Now()
			continue
		case <-due:
			last = at
		}
		for i, path := range []Path{PathWith, PathWithout} {
			if s.Path == path || s.Path == PathBoth {
				t.send(ctx, &calls, t.targets[i], path)
			}
		}
	}
}

// send makes one call, if not too many are out already.
func (t *Generator) send(ctx context.Context, calls *sync.WaitGroup, to *target, path Path) {
	select {
	case to.slots <- struct{}{}:
	default:
		to.count(now, func(s *generatedSecond) { s.notSent++ })
		return
	}
	era := to.count(now, func(s *generatedSecond) { s.sent++ })
	url := to.urls[to.sent%len(to.urls)]
	to.sent++
	calls.Go(func() {
		defer func() { <-to.slots }()
		begin := time.Now()
		good, placed := t.call(ctx, url, fmt.Sprint(path, " ", era))
		if ctx.Err() != nil {
			return
		}
		to.count(era, func(s *generatedSecond) {
			to.placed = to.placed || placed
			s.ended++
			s.took = append(s.took, time.Since(begin))
			if good {
				s.good++
			}
		})
	})
}

// call makes a call, and returns whether its answer shows that it reached an upstream, or that no
// route leads to one. A client that does not tell its callers of attempts shows that it reached one
// with good answers only.
func (t *Generator) call(ctx context.Context, url, generated string) (good, placed bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, false
	}
	r.Header.Set(headerGenerated, generated)
	resp, err := t.client.Do(r)
	if err != nil {
		return false, false
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	good = err == nil && resp.StatusCode >= 200 && resp.StatusCode < 300
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed {
		return false, true // if an upstream of ours said so, it has counted the attempt
	}
	if told := resp.Header.Get(headerAttempts); told != "" {
		attempts, _ := strconv.Atoi(told)
		return good, attempts > 0
	}
	return good, good
}

const now = -1 // the present era

// count changes the present second, unless era is over. It returns the present era.
func (o *target) count(era int, change func(*generatedSecond)) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if era == now || era == o.era {
		change(o.second())
	}
	return o.era
}

func (o *target) attempt(era int) {
	o.count(era, func(s *generatedSecond) {
		o.counted = true
		s.attempts++
	})
}

// second returns the present second. It must be called with o.mu.
func (o *target) second() *generatedSecond {
	number := time.Now().Unix()
	s := &o.seconds[number%trafficLag]
	if s.number != number {
		*s = generatedSecond{number: number, took: s.took[:0]}
	}
	return s
}

func (o *target) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.seconds[:])
	o.era++
	o.counted, o.placed = false, false
}

// elsewhere reports whether the calls reach an upstream that counts no attempts, or none.
func (o *target) elsewhere() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.placed && !o.counted
}

func (o *target) sum(now int64) (r TrafficResult) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var took []time.Duration
	for i := range o.seconds {
		if s := &o.seconds[i]; now-s.number < trafficLag {
			r.Sent += s.sent
			r.Ended += s.ended
			r.Good += s.good
			r.NotSent += s.notSent
			r.Attempts += s.attempts
			took = append(took, s.took...)
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		at := func(share float64) float64 {
			return float64(took[int(share*float64(len(took)-1)+0.5)].Round(time.Microsecond)) / float64(time.Millisecond)
		}
		r.P50, r.P99 = at(0.5), at(0.99)
	}
	return r
}
