package page

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// The bounds of the demo's traffic: enough to see everything, and never a load.
const (
	maxTraffic  = 200 // calls a second, each way
	maxInFlight = 400 // waiting for their answer, each way
	trafficLag  = 10  // seconds that results are summed up over
	maxCatchUp  = 100 * time.Millisecond
)

// Generator makes calls to a client, to the upstream behind it, or to both, at an even rate. It is
// for the demo, which listens on loopback only. It is safe for concurrent use.
type Generator struct {
	client  *http.Client
	targets [2]*target // with the policy, without
	changed chan struct{}

	mu       sync.Mutex
	settings TrafficSettings
}

// target is one way that calls take.
type target struct {
	slots chan struct{}

	mu      sync.Mutex
	url     string
	seconds [trafficLag]generatedSecond
}

type generatedSecond struct {
	number               int64
	ended, good, notSent int
}

// NewGenerator makes a generator that sends perSecond, 0 to 200, both ways. It sends nothing before
// [Generator.Run]. A call is given up after timeout.
func NewGenerator(perSecond int, timeout time.Duration) (*Generator, error) {
	t := &Generator{
		client: &http.Client{Timeout: timeout, Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: timeout}).DialContext,
			MaxIdleConnsPerHost: maxInFlight,
			IdleConnTimeout:     time.Minute,
		}},
		changed:  make(chan struct{}, 1),
		settings: TrafficSettings{Path: PathBoth},
	}
	for i := range t.targets {
		t.targets[i] = &target{slots: make(chan struct{}, maxInFlight)}
	}
	return t, t.Set(TrafficSettings{PerSecond: perSecond, Path: PathBoth})
}

// Set changes the settings from now on. The next call is due one interval of the new rate after the
// last call. Further changes in between do not restart the interval.
func (t *Generator) Set(s TrafficSettings) error {
	if s.PerSecond < 0 || s.PerSecond > maxTraffic {
		return fmt.Errorf("perSecond: must be from 0 to %d, got %d", maxTraffic, s.PerSecond)
	}
	switch s.Path {
	case PathWith, PathWithout, PathBoth:
	default:
		return fmt.Errorf("path: must be %s, %s or %s, got %q", PathWith, PathWithout, PathBoth, s.Path)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settings = s
	select {
	case t.changed <- struct{}{}:
	default:
	}
	return nil
}

// State returns the settings and the recent results.
func (t *Generator) State() TrafficState {
	now := time.Now().Unix()
	t.mu.Lock()
	s := TrafficState{TrafficSettings: t.settings, Limit: maxTraffic}
	t.mu.Unlock()
	s.With, s.Without = t.targets[0].sum(now), t.targets[1].sum(now)
	return s
}

// Run sends calls to the client's URL and to the upstream's, until ctx ends and the last call has.
func (t *Generator) Run(ctx context.Context, client, upstream string) {
	var calls sync.WaitGroup
	defer t.client.CloseIdleConnections()
	defer calls.Wait()
	for i, url := range []string{client, upstream} {
		t.targets[i].url = url
	}
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
				t.send(ctx, &calls, t.targets[i])
			}
		}
	}
}

// send makes one call, if not too many are out already.
func (t *Generator) send(ctx context.Context, calls *sync.WaitGroup, to *target) {
	select {
	case to.slots <- struct{}{}:
	default:
		to.count(func(s *generatedSecond) { s.notSent++ })
		return
	}
	calls.Go(func() {
		defer func() { <-to.slots }()
		good := t.call(ctx, to.url)
		if ctx.Err() != nil {
			return
		}
		to.count(func(s *generatedSecond) {
			s.ended++
			if good {
				s.good++
			}
		})
	})
}

func (t *Generator) call(ctx context.Context, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := t.client.Do(r)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return err == nil && resp.StatusCode >= 200 && resp.StatusCode < 300
}

func (o *target) count(change func(*generatedSecond)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	number := time.Now().Unix()
	s := &o.seconds[number%trafficLag]
	if s.number != number {
		*s = generatedSecond{number: number}
	}
	change(s)
}

func (o *target) sum(now int64) (r TrafficResult) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.seconds {
		if now-s.number < trafficLag {
			r.Ended += s.ended
			r.Good += s.good
			r.NotSent += s.notSent
		}
	}
	return r
}
