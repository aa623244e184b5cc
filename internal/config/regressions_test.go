package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// A document from a stranger must not keep the server busy. Each misspelt key used to be compared
// with all the others, which took half a minute for a megabyte of them.
func TestManyMisspeltKeysAreNotAllLookedAt(t *testing.T) {
	var misspelt strings.Builder
	for n := range 5_000 {
		fmt.Fprintf(&misspelt, "verb%05d: 1\n", n)
	}
	tests := map[string]struct {
		document string
		want     int
	}{
		"unknown":      {misspelt.String(), 1001},
		"repeated":     {strings.Repeat("verbose: true\n", 5_000), 1001},
		"further down": {"limits: {extra: {" + strings.Repeat("a: [], ", 5_000) + "}}", 1001},
		"just enough":  {strings.Join(strings.SplitAfter(misspelt.String(), "\n")[:1000], ""), 1000},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got mistake.List
			if got.Merge("", decode(tt.document)); len(got) != tt.want {
				t.Fatalf("got %d mistakes, want %d", len(got), tt.want)
			}
			last := got[len(got)-1].Error()
			if limited := last == "f: has more than 1000 mistakes; the rest are not listed"; limited != (tt.want > 1000) {
				t.Errorf("got last mistake %q, want a note on the limit: %v", last, tt.want > 1000)
			}
		})
	}
}

// A misspelt key hides the error about the missing right key, but only if the right key is absent.
func TestMisspeltKeyBesideTheRightOne(t *testing.T) {
	for document, want := range map[string]int{
		`routes: [{macth: /}]`:                      1, // the missing match is not reported too
		`routes: [{macth: /, match: ""}]`:           2,
		`routes: [{macth: /, mtach: /, match: ""}]`: 3,
	} {
		var got mistake.List
		if got.Merge("", decode(document)); len(got) != want {
			t.Errorf("%s: got %v, want %d mistakes", document, got, want)
		}
	}
}

func decode(text string) error { return config.Decode("f", []byte(text), new(document)) }

// Windows editors put a byte order mark before JSON too. JSON's escapes must still work, and
// columns must match the editor's.
func TestByteOrderMark(t *testing.T) {
	var d document
	if err := config.Decode("f", []byte("\ufeff"+`{"note": "\/ \ud83d\ude00"}`), &d); err != nil || *d.Note != "/ 😀" {
		t.Errorf("got note %v, error %v, want / 😀", d.Note, err)
	}
	err := decode("\ufeffnote: x\x00")
	if err == nil || !strings.HasPrefix(err.Error(), "f:1:8: ") {
		t.Errorf("got %v, want an error at 1:8", err)
	}
}

func TestKeys(t *testing.T) {
	tests := map[string]struct {
		document string
		want     []string
		mistake  string
	}{
		"in their order":   {document: "b: 1\na: {c: 2}\n", want: []string{"b", "a"}},
		"with null":        {document: `{"a": null}`, want: []string{"a"}},
		"merged":           {document: "a: &x {c: 1}\n<<: *x\n", want: []string{"a", "c"}},
		"none":             {document: "{}"},
		"of an empty text": {document: "# nothing\n"},
		"of a list":        {document: "[a]", mistake: "f:1:1: expected a mapping, got a list"},
		"twice":            {document: "a: 1\na: 2", mistake: "f:2:1: a: the key is already given on line 1"},
		"of no document":   {document: "{", mistake: "f:1:"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := config.Keys("f", []byte(tt.document))
			if !slices.Equal(got, tt.want) {
				t.Errorf("got keys %q, want %q", got, tt.want)
			}
			if (err != nil) != (tt.mistake != "") || err != nil && !strings.HasPrefix(err.Error(), tt.mistake) {
				t.Errorf("got error %v, want %q", err, tt.mistake)
			}
		})
	}
}
