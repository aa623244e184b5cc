package config_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// A stranger who may send a document must not be able to keep the server busy with it: each misspelt key used to be
// looked for among all the others, which took half a minute for a megabyte of them.
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
				t.Fatalf("%d mistakes, want %d", len(got), tt.want)
			}
			last := got[len(got)-1].Error()
			if says := last == "f: has more than 1000 mistakes; no more were looked for"; says != (tt.want > 1000) {
				t.Errorf("the last mistake is %q", last)
			}
		})
	}
}

// Which keys are present decides whether the one that was meant counts as missing too.
func TestMisspeltKeyBesideTheRightOne(t *testing.T) {
	for document, want := range map[string]int{
		`routes: [{macth: /}]`:                      1, // that there is no match is no second mistake
		`routes: [{macth: /, match: ""}]`:           2,
		`routes: [{macth: /, mtach: /, match: ""}]`: 3,
	} {
		var got mistake.List
		if got.Merge("", decode(document)); len(got) != want {
			t.Errorf("%s: %v, want %d mistakes", document, got, want)
		}
	}
}

func decode(text string) error { return config.Decode("f", []byte(text), new(document)) }

// Windows editors put a byte order mark before JSON too. Without it the escapes of JSON are still those of JSON, and
// a column is the one an editor shows.
func TestByteOrderMark(t *testing.T) {
	var d document
	if err := config.Decode("f", []byte("\ufeff"+`{"note": "\/ \ud83d\ude00"}`), &d); err != nil || *d.Note != "/ 😀" {
		t.Errorf("note %v, %v", d.Note, err)
	}
	err := decode("\ufeffnote: x\x00")
	if err == nil || !strings.HasPrefix(err.Error(), "f:1:8: ") {
		t.Errorf("got %v, want it at 1:8", err)
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
		"twice":            {document: "a: 1\na: 2", mistake: "f:2:1: a: the key is already given in line 1"},
		"of no document":   {document: "{", mistake: "f:1:"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := config.Keys("f", []byte(tt.document))
			if !slices.Equal(got, tt.want) {
				t.Errorf("keys %q, want %q", got, tt.want)
			}
			if (err != nil) != (tt.mistake != "") || err != nil && !strings.HasPrefix(err.Error(), tt.mistake) {
				t.Errorf("error %v, want %q", err, tt.mistake)
			}
		})
	}
}
