package main

import (
	"fmt"

	"github.com/rebound-dev/rebound/pkg/lab"
)

// reference is the result that a verdict compares with. Without a result there is none.
type reference struct {
	name   string
	result *lab.Result
}

// Limits of the verdict.
const (
	stormFrom = 2.0  // attempts a call in the worst second
	slowFrom  = 5.0  // seconds until service is good again
	fewer     = 0.05 // of the calls
	good      = 0.95 // of the calls end well
	forever   = 60.0 // seconds without recovery
)

// grade says how bad a result is, from 0, next to the reference.
func grade(r *lab.Result, ref reference) int {
	own := ref.result
	switch {
	case r.Before.Success < good && (own == nil || own.Before.Success >= good):
		return 6
	case recovery(r) == never && r.PeakAmplification >= stormFrom:
		return 5
	case recovery(r) == never:
		return 4
	case r.RecoveryS != nil && *r.RecoveryS > slowFrom:
		return 3
	case r.PeakAmplification >= stormFrom:
		return 2
	case own != nil && r.During.Success < own.During.Success-fewer:
		return 1
	}
	return 0
}

// verdictOn says in one or two sentences what the figures of a policy mean, next to the reference
// in the same run.
func verdictOn(r *lab.Result, ref reference) string {
	own := ref.result
	worst := fmt.Sprintf("%.1f attempts a call in the worst second", r.PeakAmplification)
	back := "recovery " + recovery(r)
	if r.RecoveryS != nil {
		back = fmt.Sprintf("recovered after %.1f s", *r.RecoveryS)
	} else if recovery(r) == never {
		back = notRecovered(r)
	}
	with, about := "", "" // of the reference: with its attempts, or another figure
	if own != nil {
		compared := "recovery " + recovery(own)
		switch {
		case own.RecoveryS != nil:
			compared = fmt.Sprintf("%.1f s", *own.RecoveryS)
		case recovery(own) == never:
			compared = notRecovered(own)
		}
		with = fmt.Sprintf(" %s: %.1f attempts, %s.", ref.name, own.PeakAmplification, compared)
		about = fmt.Sprintf(" %s: %s.", ref.name, compared)
	}
	success := func(part func(*lab.Result) lab.Part) string {
		if own == nil {
			return ""
		}
		return fmt.Sprintf(" %s: %s.", ref.name, percent(part(own).Success))
	}
	switch grade(r, ref) {
	case 6:
		return fmt.Sprintf("Fails by itself: %s of the calls end well before the disturbance %s.", percent(r.Before.Success), atLoad(r.Load)) +
			success(func(r *lab.Result) lab.Part { return r.Before })
	case 5:
		return fmt.Sprintf("Retry storm: %s, %s %s.", worst, back, atLoad(r.Load)) + about
	case 4:
		name := "No recovery"
		if r.LengthS-r.DisturbanceToS >= forever {
			name = "Never recovers"
		}
		return fmt.Sprintf("%s: %s %s, %s.", name, back, atLoad(r.Load), worst) + about
	case 3:
		return fmt.Sprintf("Slow recovery: %.1f s %s, %s.", *r.RecoveryS, atLoad(r.Load), worst) + about
	case 2:
		return fmt.Sprintf("Retry storm: %s, %s %s.", worst, back, atLoad(r.Load)) + with
	case 1:
		return fmt.Sprintf("Calls lost: %s end well in the disturbance %s, %s.", percent(r.During.Success), atLoad(r.Load), back) +
			success(func(r *lab.Result) lab.Part { return r.During })
	}
	return fmt.Sprintf("No harm: %s, %s %s.", worst, back, atLoad(r.Load)) + with
}

func notRecovered(r *lab.Result) string {
	return fmt.Sprintf("not recovered after %.0f s", r.LengthS-r.DisturbanceToS)
}

func atLoad(l lab.Load) string {
	if l.Capacity == 0 {
		return fmt.Sprintf("at %g calls/s", l.Rate)
	}
	return fmt.Sprintf("at %.3g %% load", 100*l.Rate/l.Capacity)
}
