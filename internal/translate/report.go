package translate

import (
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// places returns the places that set a field, a field below it, or one that it is a part of.
func places(from foreign.Sources, field string) []foreign.Place {
	var all []foreign.Place
	for name, at := range from {
		if name == field || strings.HasPrefix(name, field+".") || strings.HasPrefix(field, name+".") {
			all = append(all, at...)
		}
	}
	return all
}

// Report is the report of an import with what the translation of its policies adds. An entry for a
// value becomes approximated or dropped if one of the policies that it sets is. Notes about values
// that no file sets come last.
func Report(imported *foreign.Result, results []Result) foreign.Report {
	report := slices.Clone(imported.Report)
	byPlace := map[[2]int][]int{} // entries of the report by line and column
	for i, e := range report {
		if e.Kind != foreign.Default && e.Kind != foreign.Unrelated {
			byPlace[[2]int{e.Line, e.Column}] = append(byPlace[[2]int{e.Line, e.Column}], i)
		}
	}
	defaults := map[foreign.Entry]bool{}
	for i, p := range imported.Policies {
		for _, note := range results[i].Notes {
			found := false
			for _, place := range places(p.From, note.Field) {
				for _, at := range byPlace[[2]int{place.Line, place.Column}] {
					worsen(&report[at], note)
					found = true
				}
			}
			if found {
				continue
			}
			e := foreign.Entry{Place: foreign.Place{Path: p.Name}, Kind: foreign.Default, Sentence: note.Sentence}
			if !defaults[e] {
				defaults[e] = true
				report = append(report, e)
			}
		}
	}
	return report
}

// worsen adds a note to an entry.
func worsen(e *foreign.Entry, note Note) {
	switch {
	case e.Kind == foreign.Carried:
		e.Kind = note.Kind
	case e.Kind == foreign.Dropped && note.Kind == foreign.Approximated:
		e.Kind = foreign.Approximated // a part of it is left
	}
	switch {
	case e.Sentence == "":
		e.Sentence = note.Sentence
	case !strings.Contains(e.Sentence, note.Sentence):
		e.Sentence += "; " + note.Sentence
	}
}
