package page_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/rebound-dev/rebound/internal/page"
)

// The live page and the pages of lab write numbers and times, and place the marks of an axis, with
// the same functions.
func TestFormats(t *testing.T) {
	t.Parallel()
	_, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	_ = eval[bool](v, `(import("/assets/chart.js").then((m) => { window.chart = m; }), true)`)
	v.until(`Boolean(window.chart)`)
	for expression, want := range map[string]string{
		"count(0)": "0", "count(999.4)": "999", "count(1000)": "1,000", "count(1234567)": "1,234,567", "count(-1500)": "-1,500",
		"duration(0.3)": "0.30 ms", "duration(45.12)": "45.1 ms", "duration(99.96)": "100 ms", "duration(123.4)": "123 ms", "duration(999.6)": "1.00 s",
		"duration(1500)": "1.50 s", "duration(12340)": "12.3 s", "duration(90000)": "1.5 min",
		"tickText(0.5, 0.5)": "0.5 ms", "tickText(50, 10)": "50 ms", "tickText(1500, 500)": "1.5 s", "tickText(2000, 1000)": "2 s",
		"units.level.say(3)": "3.0", "units.level.mark(0.5)": "0.5", "units.level.mark(20000)": "20,000",
	} {
		if got := eval[string](v, "chart."+expression); got != want {
			t.Errorf("%s = %q, want %q", expression, got, want)
		}
	}
	for _, tc := range []struct {
		span float64
		most int
		want float64
	}{{5, 3, 2}, {10, 3, 5}, {60, 3, 20}, {100, 3, 50}, {1, 1, 1}, {0.07, 3, 0.05}, {3000, 3, 1000}} {
		if got := eval[float64](v, fmt.Sprintf("chart.tick(%v, %d)", tc.span, tc.most)); math.Abs(got-tc.want) > tc.want/1000 {
			t.Errorf("marks of %v, at most %d: every %v, want %v", tc.span, tc.most, got, tc.want)
		}
	}
	// The marks of an axis differ, whatever its top is: a tenth or more.
	var tops []float64
	for power := -1.0; power < 6; power++ {
		for _, n := range []float64{1, 1.3, 1.7, 2, 3.3, 4.6, 5, 7.7, 9.96} {
			tops = append(tops, n*math.Pow(10, power))
		}
	}
	list, err := json.Marshal(tops)
	if err != nil {
		t.Fatal(err)
	}
	if same := eval[[]string](v, fmt.Sprintf(`%s.flatMap((top) => Object.entries(chart.units).map(([name, unit]) => {
		const step = Math.max(unit.least, chart.tick(top, 3));
		const marks = [1, 2, 3].map((i) => unit.mark(i * step, step));
		return new Set(marks).size < 3 && name + " up to " + top + ": " + marks;
	})).filter(Boolean)`, list)); len(same) > 0 {
		t.Errorf("marks that do not differ: %q", same)
	}
}
