package resilience

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryEndingIsJudged(t *testing.T) {
	for e := range endings {
		if _, judged := e.blame(0, 1); !judged {
			t.Errorf("blame has no case for ending %d, want one", e)
		}
	}
	if _, judged := endings.blame(0, 1); judged {
		t.Error("blame has a case for a value that is no ending, want none")
	}
}

type idleCaller struct{}

func (idleCaller) callerBusy() bool { return false }

func (idleCaller) doubtful() bool { return false }

// A probe is neutral if this process was stopped when its lease ended.
func TestStalledProbeIsNeutral(t *testing.T) {
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
				if _, err := b.allow(&first, time.Now(), lease, idleCaller{}, &c); err != nil {
					t.Fatal(err)
				}
				first.settle(Unhealthy, time.Now())
				time.Sleep(p.OpenFor + time.Second)
				began := time.Now()
				if tc.late { // as if a stall had delayed the end of the lease
					began = began.Add(-300 * time.Millisecond)
				}
				if _, err := b.allow(&probe, began, lease, idleCaller{}, &c); err != nil {
					t.Fatal(err)
				}
				c.stalled.Store(tc.noticed)
				time.Sleep(lease + time.Millisecond)
				if s := b.snapshot(); s.State != tc.want || s.Probes != 0 {
					t.Errorf("state %v with %d probes in flight, want %v with 0", s.State, s.Probes, tc.want)
				}
			})
		})
	}
}
