package lab_test

import (
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// A virtual minute of a thousand calls per second, healthy and with an outage.
func BenchmarkMinute(b *testing.B) {
	for _, name := range []string{"healthy", "outage-hanging"} {
		b.Run(name, func(b *testing.B) {
			s := steady(func(s *lab.Scenario) { s.Length = time.Minute })
			if name != "healthy" {
				var err error
				if s, err = lab.LoadScenario(name); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				var r *lab.Result
				var err error
				virtual.Run(func() {
					r, err = lab.Experiment{Policy: transport.DefaultPolicy(), Scenario: s, Load: lab.Load{
						Rate: 1000, Clients: 20, Capacity: 2000, Length: time.Minute, Seed: 1,
					}}.Run(b.Context())
				})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.Before.Calls+r.During.Calls+r.After.Calls)/60, "calls/virtual-s")
			}
		})
	}
}
