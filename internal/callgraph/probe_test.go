package callgraph_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/callgraph"
)

func show(r *callgraph.Result) {
	for _, s := range r.Services {
		rec := "never"
		if s.RecoveryS != nil {
			rec = fmt.Sprint(*s.RecoveryS)
		}
		fmt.Printf("%-10s percall %.2f/%.2f perentry %.2f/%.2f before %.3f during %.3f after %.3f rec %s p99 %.1f wasted %d/%d refused %d\n", s.Name, s.PerCall.Mean, s.PerCall.Peak, s.PerEntry.Mean, s.PerEntry.Peak,
			s.Before.Success, s.During.Success, s.After.Success, rec, s.After.P99, s.Wasted, s.Served, s.Refused)
	}
	for _, e := range r.Edges {
		fmt.Printf("%+v\n", e)
	}
	for i, x := range r.Services[len(r.Services)-1].Series {
		if i >= 18 && i < 45 {
			e := r.Services[0].Series[i]
			fmt.Printf("%d: entry calls %d good %d | bottom calls %d attempts %d caused %d good %d\n", i, e.Calls, e.Goodput, x.Calls, x.Attempts, x.Caused, x.Goodput)
		}
	}
}

func TestProbe(t *testing.T) {
	began := time.Now()
	g := tiers(t, 425, 500, 500, 500)
	show(run(t, callgraph.Experiment{Graph: g, Seed: 1}))
	fmt.Println(time.Since(began))
}

func TestProbe2(t *testing.T) {
	began := time.Now()
	g := tiers(t, 300, 10000, 10000, 353)
	g.PassOn = callgraph.PassOn{}
	show(run(t, under(g, naive(time.Second))))
	fmt.Println(time.Since(began))
}
