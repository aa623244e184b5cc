package resilience

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryEndingIsJudged(t *testing.T) {
	for e := range endings {
		if _, judged := e.blame(0, 1); !judged {
			t.Errorf("ending %d has no case in blame: decide whose fault it is", e)
		}
	}
	if _, judged := endings.blame(0, 1); judged {
		t.Error("blame judges what is no ending: this test could not fail")
	}
}

type nobody struct{}

func (nobody) callerBusy() bool { return false }

// A probe whose lease ended while this process stood still decides nothing.
func TestA16StalledProbeIsNeutral(t *testing.T) {
	for name, tc := range map[string]struct {
		late, noticed bool
		want          State
	}{
		"in time":                      {want: Open},
		"the lease ends late":          {late: true, want: HalfOpen},
		"the attempt's clock was late": {noticed: true, want: HalfOpen},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := DefaultPolicy().Breaker
				p.ConsecutiveFailures = 1
				b := newBreaker("upstream", p, func() float64 { return 0.5 }, nil)
				const lease = time.Second
				var first, probe ticket
				var c clock
				if _, err := b.allow(&first, time.Now(), lease, nobody{}, &c); err != nil {
					t.Fatal(err)
				}
				first.settle(Unhealthy, time.Now())
				time.Sleep(p.OpenFor + time.Second)
				began := time.Now()
				if tc.late { // its timer comes as late as if it had begun before a stall
					began = began.Add(-300 * time.Millisecond)
				}
				if _, err := b.allow(&probe, began, lease, nobody{}, &c); err != nil {
					t.Fatal(err)
				}
				c.stalled.Store(tc.noticed)
				time.Sleep(lease + time.Millisecond)
				if s := b.snapshot(); s.State != tc.want || s.Probes != 0 {
					t.Errorf("the circuit is %v with %d probes out, want %v and none", s.State, s.Probes, tc.want)
				}
			})
		})
	}
}
