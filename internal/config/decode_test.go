package config_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

func TestDecode(t *testing.T) {
	text := func(s string) *string { return &s }
	byDefault := policy{Timeout: 5 * time.Second, Retry: retry{MaxAttempts: 3, Statuses: []int{502, 503}, Factor: 2}}
	changed := func(change func(*policy)) policy { p := byDefault; change(&p); return p }

	for name, tc := range map[string]struct {
		before   document
		document string
		want     document
	}{
		"whole": {document{}, whole, document{
			common: common{Verbose: true},
			Routes: []route{{"process", "GET /process"}, {"other", "/other"}},
			Policies: map[string]policy{
				"default": {Timeout: 1500 * time.Millisecond, Retry: retry{MaxAttempts: 4, Statuses: []int{429, 503}, Factor: 1.5}},
			},
			Limits: limits{-128, 65535, 0.5, 1, 64 << 10, textual{"0.30"}, map[string]string{"a": "1", "b": "two"}},
			Note:   text(""),
			Nested: map[string]*policy{"a.b": {Retry: byDefault.Retry}},
		}},
		"an_absent_key_keeps_its_value": {
			document{common: common{true}, Limits: limits{Port: 80, Ratio: 1}},
			"limits: {port: 81}",
			document{common: common{true}, Limits: limits{Port: 81, Ratio: 1}},
		},
		"an_empty_mapping_changes_nothing": {document{common: common{true}}, "{}", document{common: common{true}}},
		"a_new_entry_begins_with_defaults": {
			document{},
			"policies: {a: {retry: {factor: 3}}, b: {}}",
			document{Policies: map[string]policy{"a": changed(func(p *policy) { p.Retry.Factor = 3 }), "b": byDefault}},
		},
		"an_entry_that_is_there_is_changed": {
			document{Policies: map[string]policy{"a": {Timeout: time.Hour, Retry: retry{MaxAttempts: 9}}, "c": byDefault}},
			"policies: {a: {timeout: 1m}}",
			document{Policies: map[string]policy{"a": {Timeout: time.Minute, Retry: retry{MaxAttempts: 9}}, "c": byDefault}},
		},
		"a_pointer_that_is_there_is_changed": {
			document{Nested: map[string]*policy{"a": {Timeout: time.Hour}}},
			"nested: {a: {retry: {maxAttempts: 1}}}",
			document{Nested: map[string]*policy{"a": {Timeout: time.Hour, Retry: retry{MaxAttempts: 1}}}},
		},
		"a_list_is_replaced": {
			document{Routes: []route{{"a", "/a"}, {"b", "/b"}}},
			"routes: [{match: /c}]",
			document{Routes: []route{{"", "/c"}}},
		},
		"a_list_element_begins_with_defaults": {
			document{Chain: []policy{{Timeout: time.Hour}, {}}},
			"chain: [{timeout: 1s}, {}, {retry: {maxAttempts: 1}}]",
			document{Chain: []policy{
				changed(func(p *policy) { p.Timeout = time.Second }), byDefault, changed(func(p *policy) { p.Retry.MaxAttempts = 1 }),
			}},
		},
		"an_empty_list_empties": {
			document{Routes: []route{{"a", "/a"}}}, "routes: []", document{Routes: []route{}},
		},
		"null_makes_a_pointer_nil": {document{Note: text("x")}, "note: null", document{}},
		"an_escaped_control_character": {
			document{}, `note: "\a\t"`, document{Note: text("\a\t")},
		},
		"an_alias": {
			document{},
			"routes: [&r {name: a, match: /}, *r]\nnote: &n x\nlimits: {note: *n, extra: {a: *n}}",
			document{
				Routes: []route{{"a", "/"}, {"a", "/"}},
				Note:   text("x"), Limits: limits{Note: textual{"x"}, Extra: map[string]string{"a": "x"}},
			},
		},
		"an_alias_as_key": {
			document{}, "note: &n x\nlimits: {extra: {*n : y}}",
			document{Note: text("x"), Limits: limits{Extra: map[string]string{"x": "y"}}},
		},
		"a_merge_key": {
			document{},
			"routes:\n  - &r {name: a, match: /}\n  - {<<: *r, name: b}\n  - {name: c, <<: *r}",
			document{Routes: []route{{"a", "/"}, {"b", "/"}, {"c", "/"}}},
		},
		"merge_of_a_list_where_the_first_wins": {
			document{},
			"limits: {<<: [{small: 1}, {small: 2, port: 2}, {port: 3, ratio: 3}]}",
			document{Limits: limits{Small: 1, Port: 2, Ratio: 3}},
		},
		"merge_of_merges": {
			document{},
			"routes: [&a {name: a, match: /}, &b {<<: *a, name: b}, {<<: *b}]",
			document{Routes: []route{{"a", "/"}, {"b", "/"}, {"b", "/"}}},
		},
		"a_quoted_merge_key_is_a_key": {
			document{}, `limits: {extra: {"<<": x}}`, document{Limits: limits{Extra: map[string]string{"<<": "x"}}},
		},
		"json": {
			document{},
			"{\"verbose\":true,\n\t\"policies\":{\"a\\u0062\":{\"timeout\":\"1s\",\"retry\":{\"factor\":1.5e0,\"statuses\":[]}}},\"note\":\"\\/\"}",
			document{
				common: common{true}, Note: text("/"),
				Policies: map[string]policy{"ab": {Timeout: time.Second, Retry: retry{MaxAttempts: 3, Statuses: []int{}, Factor: 1.5}}},
			},
		},
		"json_that_this_yaml_would_not_read": {
			document{},
			`{"note": "\/\ud83d\ude00\\/\\u0041\"\ud83dx\u00e9\ud83d` + "\u2028\u2029\u0085é" + `"}`,
			document{Note: text("/😀\\/\\u0041\"\ufffdxé\ufffd\u2028\u2029\u0085é")},
		},
		"durations": {
			document{},
			"policies: {a: {timeout: 0}, b: {timeout: \"1h2m3.5s\"}, c: {timeout: 0s}}",
			document{Policies: map[string]policy{
				"a": changed(func(p *policy) { p.Timeout = 0 }),
				"b": changed(func(p *policy) { p.Timeout = time.Hour + 2*time.Minute + 3500*time.Millisecond }),
				"c": changed(func(p *policy) { p.Timeout = 0 }),
			}},
		},
		"numbers": {
			document{},
			"limits: {small: +7, port: 0, ratio: -1.5E-3, narrow: .5, size: 12, note: 1e3}",
			document{Limits: limits{7, 0, 0.5, -0.0015, 12, textual{"1e3"}, nil}},
		},
		"text_that_only_looks_odd": {
			document{},
			"limits: {extra: {a: no, b: 2001-01-01, c: <<, d: 1.2.3, e: 12:30:45}}",
			document{Limits: limits{Extra: map[string]string{"a": "no", "b": "2001-01-01", "c": "<<", "d": "1.2.3", "e": "12:30:45"}}},
		},
		"windows":         {document{}, "\ufeffverbose: true\r\nnote: x\r\n", document{common: common{true}, Note: text("x")}},
		"marked_document": {document{}, "---\nverbose: true\n...\n", document{common: common{true}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.before
			if err := config.Decode("f", []byte(tc.document), &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, tc.want)
			}
		})
	}
}

// A rejected document must not change values that it shares with the target, such as map entries.
// Others may read the running configuration while a PATCH fails.
func TestRefusedDocumentLeavesNoTrace(t *testing.T) {
	shared := map[string]policy{"a": {Timeout: time.Second, Retry: retry{MaxAttempts: 1}}}
	pointed := map[string]*policy{"a": {Timeout: time.Second}}
	note := "before"
	d := document{Policies: shared, Nested: pointed, Note: &note, Limits: limits{Extra: map[string]string{"a": "before"}}}
	err := config.Decode("f", []byte(`
policies: {a: {timeout: 2s}, b: {}}
nested: {a: {timeout: 2s}}
note: after
limits: {extra: {a: after}, small: 1000}
`), &d)
	if err == nil {
		t.Fatal("got no error, want one")
	}
	if len(shared) != 1 || shared["a"].Timeout != time.Second || pointed["a"].Timeout != time.Second ||
		note != "before" || d.Limits.Extra["a"] != "before" || d.Limits.Small != 0 {
		t.Errorf("got %+v, %+v, %s, %+v after a rejected document, want no change", shared, pointed["a"], note, d.Limits)
	}
	// An accepted document does not change shared values either.
	if err := config.Decode("f", []byte("policies: {b: {}}\nnested: {a: {timeout: 2s}}"), &d); err != nil {
		t.Fatal(err)
	}
	if len(shared) != 1 || pointed["a"].Timeout != time.Second || len(d.Policies) != 2 || d.Nested["a"].Timeout != 2*time.Second {
		t.Errorf("got shared values %+v, %+v, want no change", shared, pointed["a"])
	}
}

// pointerText is a text type that writes through a pointer it holds, as types with a buffer do.
type pointerText struct{ to *string }

func (r *pointerText) UnmarshalText(text []byte) error {
	if r.to == nil {
		r.to = new(string)
	}
	*r.to = string(text)
	return nil
}

func TestTextTypeDoesNotWriteIntoTheOldValue(t *testing.T) {
	type target struct {
		Text pointerText `yaml:"text"`
	}
	old := "before"
	got := target{pointerText{&old}}
	if err := config.Decode("f", []byte("text: after"), &got); err != nil || *got.Text.to != "after" || old != "before" {
		t.Errorf("got %s (error %v), want after; the old value is %s, want before", *got.Text.to, err, old)
	}
}

func TestDecodeErrorsWork(t *testing.T) {
	err := config.Decode("rebound.yaml", []byte("routes:\n  - name: a\n    match: \"\"\nlimits:\n  small: x\n"), &document{})
	if !errors.Is(err, errRouteWithoutMatch) {
		t.Errorf("got %v, want it to wrap %v", err, errRouteWithoutMatch)
	}
	one, ok := errors.AsType[*mistake.Mistake](err)
	if !ok {
		t.Fatalf("got %T, want *config.Error", err)
	}
	got := mistake.Mistake{File: one.File, Line: one.Line, Column: one.Column, Path: one.Path, Message: one.Message}
	if want := (mistake.Mistake{File: "rebound.yaml", Line: 3, Column: 12, Path: "routes[0].match", Message: "expected a pattern, got none"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if want := "rebound.yaml:3:12: routes[0].match: expected a pattern, got none\nrebound.yaml:5:10: limits.small: expected a decimal integer, got \"x\""; err.Error() != want {
		t.Errorf("got %s\nwant %s", err, want)
	}
}

func TestManyMistakes(t *testing.T) {
	var b strings.Builder
	for range 53 {
		b.WriteString("- 1\n")
	}
	err := config.Decode("f", []byte("routes:\n"+b.String()), &document{})
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 51 || lines[50] != "and 3 more" || !strings.HasPrefix(lines[49], "f:51:3: routes[49]: ") {
		t.Errorf("got %d lines that end in %q and %q, want 51 lines", len(lines), lines[len(lines)-2], lines[len(lines)-1])
	}
	var all mistake.List
	if all.Merge("", err); len(all) != 53 {
		t.Errorf("got %d mistakes, want 53", len(all))
	}
}

// A target that Decode cannot use is a bug in the program. The error says so and does not look like
// a mistake in the document.
func TestUnusableTarget(t *testing.T) {
	type unusable struct {
		Any      any            `yaml:"any"`
		Channel  chan int       `yaml:"channel"`
		ByNumber map[int]string `yaml:"byNumber"`
		Array    [2]int         `yaml:"array"`
	}
	var none *document
	for name, target := range map[string]any{
		"nil": nil, "struct": document{}, "nil_pointer": none, "map": &map[string]int{}, "string": new(string),
	} {
		t.Run(name, func(t *testing.T) {
			err := config.Decode("f", []byte("a: 1"), target)
			if err == nil || !strings.Contains(err.Error(), "expected a pointer to a struct as the target") {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, key := range []string{"any", "channel", "byNumber", "array"} {
		t.Run(key, func(t *testing.T) {
			err := config.Decode("f", []byte(key+": {}"), &unusable{})
			if err == nil || !strings.Contains(err.Error(), key+": cannot be configured: its type is ") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestStandardTextTypes(t *testing.T) {
	type addresses struct {
		One  netip.Addr  `yaml:"one"`
		Two  *netip.Addr `yaml:"two"`
		When time.Time   `yaml:"when"`
	}
	var got addresses
	if err := config.Decode("f", []byte("one: 127.0.0.1\ntwo: ::1\nwhen: 2026-01-02T03:04:05Z\n"), &got); err != nil {
		t.Fatal(err)
	}
	two := netip.MustParseAddr("::1")
	want := addresses{netip.MustParseAddr("127.0.0.1"), &two, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := config.Decode("f", []byte("one: nowhere"), &got); err == nil || !strings.HasPrefix(err.Error(), "f:1:6: one: ParseAddr") {
		t.Errorf("got %v, want the error of netip.ParseAddr", err)
	}
}

// shortName can be written as a text too.
type shortName struct {
	Name string `yaml:"name"`
	Loud bool   `yaml:"loud"`
}

func (s *shortName) SetShort(text string) { *s = shortName{Name: text} }
func (s shortName) Short() (string, bool) { return s.Name, !s.Loud }

func TestShortForm(t *testing.T) {
	type names struct {
		By map[string]shortName `yaml:"by"`
	}
	var got names
	err := config.Decode("f", []byte("by:\n  a: ann\n  b: {name: bob, loud: true}\n  c: {name: cy}\n"), &got)
	want := names{By: map[string]shortName{"a": {Name: "ann"}, "b": {Name: "bob", Loud: true}, "c": {Name: "cy"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, error %v, want %+v", got, err, want)
	}
	text, err := config.Marshal(got)
	if want := "by:\n  a: ann\n  b:\n    name: bob\n    loud: true\n  c: cy\n"; err != nil || string(text) != want {
		t.Errorf("got error %v,\n%s\nwant\n%s", err, text, want)
	}
	for wrong, want := range map[string]string{
		"by: {a: 1}":   "f:1:9: by.a: expected a string, got 1; write",
		"by: {a: }":    "f:1:9: by.a: expected a string or a mapping",
		"by: {a: [b]}": "f:1:9: by.a: expected a string or a mapping",
	} {
		if err := config.Decode("f", []byte(wrong), &got); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want %s", wrong, err, want)
		}
	}
}
