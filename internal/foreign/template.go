package foreign

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// templateForm matches what Helm, Jinja, Go and their like replace.
var templateForm = regexp.MustCompile(`\{\{.*?\}\}|\{%.*?%\}|<%.*?%>`)

// templateMistakes replaces the mistakes in lines of a template with one that says what to do.
func templateMistakes(name string, data []byte, err error) error {
	list, ok := errors.AsType[*mistake.List](err)
	if !ok {
		return err
	}
	lines := strings.Split(string(data), "\n")
	place := func(line int) []int {
		if line < 1 || line > len(lines) {
			return nil
		}
		return templateForm.FindStringIndex(lines[line-1])
	}
	first := 0
	left := slices.DeleteFunc(slices.Clone(*list), func(m *mistake.Mistake) bool {
		in := place(m.Line) != nil
		if in && (first == 0 || m.Line < first) {
			first = m.Line
		}
		return in
	})
	if first == 0 {
		return err
	}
	at := place(first)
	return slices.Insert(left, 0, aTemplate(name, first, lines[first-1], at[0], at[1])).Err()
}

func aTemplate(name string, number int, line string, start, end int) *mistake.Mistake {
	return &mistake.Mistake{
		File: name, Line: number, Column: utf8.RuneCountInString(line[:start]) + 1,
		Message: "expected a configuration, got a template with " + clip(line[start:end]) + ": import what it makes, such as the output of helm template",
	}
}

// templateLine returns a mistake for the first line that begins like one of a template, or nil.
func templateLine(name string, data []byte) *mistake.Mistake {
	for number, line := range strings.Split(string(data), "\n") {
		at := templateForm.FindStringIndex(line)
		if at != nil && strings.TrimSpace(line[:at[0]]) == "" {
			return aTemplate(name, number+1, line, at[0], at[1])
		}
	}
	return nil
}
