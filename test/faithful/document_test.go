package faithful_test

import (
	_ "embed"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"text/template"
)

const document = "../../docs/faithful.md"

//go:embed testdata/faithful.md.tmpl
var documentText string

// write returns the document.
func write(sections []section) string {
	var b strings.Builder
	t := template.Must(template.New("faithful.md").Parse(documentText))
	data := struct {
		Sections                        []section
		Total, Good                     int
		MaxAttempts, MaxSuccess, Enough float64
		Outside                         []string
	}{Sections: sections, MaxAttempts: maxAttempts, MaxSuccess: 100 * maxSuccess, Enough: 100 * enough}
	for _, s := range sections {
		for _, r := range s.rows {
			data.Total++
			if r.within() {
				data.Good++
				continue
			}
			why := r.why
			if why == "" {
				why = "Not explained."
			}
			data.Outside = append(data.Outside, fmt.Sprintf("%s, %s, %s, %s: %s", s.Name, code(r.policy), r.failure, r.method, why))
		}
	}
	if err := t.Execute(&b, data); err != nil {
		panic(err)
	}
	return b.String()
}

func code(s string) string { return "`" + s + "`" }

// Cells returns the number of cells. It and the following are for the template.
func (s section) Cells() int { return len(s.rows) }

// Rows returns the lines of the table.
func (s section) Rows() (rows []string) {
	for _, r := range s.rows {
		verdict := "agrees"
		if !r.within() {
			verdict = "**differs**"
		}
		rows = append(rows, fmt.Sprintf("%s %.3f | %.3f | %.3f | %.3f | %s |", r.key(),
			r.real.perCall(), r.simulated.perCall(), r.real.success(), r.simulated.success(), verdict))
	}
	return rows
}

// key is the beginning of a row.
func (r row) key() string {
	return fmt.Sprintf("| %s | %s | %s | %d |", code(r.policy), r.failure, r.method, r.servers)
}

// Within returns the number of cells within the limits.
func (s section) Within() (n int) {
	for _, r := range s.rows {
		if r.within() {
			n++
		}
	}
	return n
}

// WorstAttempts returns the largest difference in attempts per call.
func (s section) WorstAttempts() (worst float64) {
	for _, r := range s.rows {
		worst = max(worst, math.Abs(r.real.perCall()-r.simulated.perCall()))
	}
	return worst
}

// WorstSuccess returns the largest difference in success, in points.
func (s section) WorstSuccess() (worst float64) {
	for _, r := range s.rows {
		worst = max(worst, math.Abs(r.real.success()-r.simulated.success()))
	}
	return 100 * worst
}

// checkDocument fails for a cell that the document does not have. The figures may differ a little
// from run to run.
func checkDocument(t *testing.T, sections []section) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections {
		for _, r := range s.rows {
			if !strings.Contains(string(text), r.key()) {
				t.Errorf("%s has no row %q: run the test with -update", document, r.key())
			}
		}
	}
}
