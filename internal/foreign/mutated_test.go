package foreign_test

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
)

var aValue = regexp.MustCompile(`[A-Za-z0-9_."'-]+`)

// A file in which one word is another, or one line is missing, is either refused or accounted for.
func TestMutated(t *testing.T) {
	imported, refused := 0, 0
	for path, data := range examples(t) {
		try := func(text []byte) {
			r, err := foreign.Import(systemOf(path), "f", text)
			if err != nil {
				refused++
				return
			}
			imported++
			accounted(t, systemOf(path), "f", text, r)
			if t.Failed() {
				t.Fatalf("%s:\n%s", path, text)
			}
		}
		step := 1
		if isReal(path) {
			step = 5 // there are many of them
		}
		lines := bytes.SplitAfter(data, []byte("\n"))
		for i := 0; i < len(lines); i += step {
			try(bytes.Join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...), nil))
		}
		for i, at := range aValue.FindAllIndex(data, -1) {
			if i%step != 0 {
				continue
			}
			word := []string{"{}", "[]", "null", "-1", "0", "x", "''"}[i%7]
			try([]byte(string(data[:at[0]]) + word + string(data[at[1]:])))
		}
	}
	if imported < 100 || refused < 100 {
		t.Errorf("%d imported and %d refused, want many of both", imported, refused)
	}
}
