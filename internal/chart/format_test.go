package chart_test

import (
	"testing"

	"github.com/rebound-dev/rebound/internal/chart"
)

// That the live page writes the same is in test/page.
func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		chart.Count(0): "0", chart.Count(999.4): "999", chart.Count(1000): "1,000", chart.Count(1234567): "1,234,567", chart.Count(-1500): "-1,500",
		chart.Duration(0.3): "0.30 ms", chart.Duration(45.12): "45.1 ms", chart.Duration(123.4): "123 ms", chart.Duration(1500): "1.50 s",
		chart.Duration(12_340): "12.3 s", chart.Duration(90_000): "1.5 min",
		chart.TickText(0.5, 0.5): "0.5 ms", chart.TickText(50, 10): "50 ms", chart.TickText(1500, 500): "1.5 s", chart.TickText(2000, 1000): "2 s",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for _, tc := range []struct {
		span float64
		most int
		want float64
	}{{5, 3, 2}, {10, 3, 5}, {60, 3, 20}, {100, 3, 50}, {1, 1, 1}, {0.07, 3, 0.05}, {3000, 3, 1000}} {
		if got := chart.Tick(tc.span, tc.most); got < tc.want*0.999 || got > tc.want*1.001 {
			t.Errorf("marks of %v, at most %d: every %v, want %v", tc.span, tc.most, got, tc.want)
		}
	}
}
