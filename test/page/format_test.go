package page_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/rebound-dev/rebound/internal/chart"
	"github.com/rebound-dev/rebound/internal/page"
)

// The live page, which draws in the browser, and the pages of lab, which are drawn in Go, write
// numbers and times alike, and put the marks of an axis at the same places.
func TestChartsOfPageAndLabAgree(t *testing.T) {
	_, at := own(t, page.Options{})
	v := visit(t, at, 1440, false)
	_ = eval[bool](v, `(import("/assets/format.js").then((m) => { window.format = m; }), true)`)
	v.until(`Boolean(window.format)`)
	var values []float64
	for power := -2.0; power < 6; power++ {
		for _, n := range []float64{1, 1.3, 1.7, 2, 3.3, 4.6, 5, 7.7, 9.96} {
			values = append(values, n*math.Pow(10, power))
		}
	}
	list, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	got := eval[[][]string](v, fmt.Sprintf(`%s.map((x) => [format.count(x), format.duration(x), String(format.tick(x, 3)), format.tickText(x, format.tick(x, 3))])`, list))
	for i, x := range values {
		step := chart.Tick(x, 3)
		var shown float64
		if _, err := fmt.Sscan(got[i][2], &shown); err != nil {
			t.Fatal(err)
		}
		if got[i][0] != chart.Count(x) || got[i][1] != chart.Duration(x) || math.Abs(shown-step) > step/1000 || got[i][3] != chart.TickText(x, step) {
			t.Errorf("%v: the page has %q, lab %q %q %v %q", x, got[i], chart.Count(x), chart.Duration(x), step, chart.TickText(x, step))
		}
	}
}
