package config_test

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

func TestMarshal(t *testing.T) {
	var d document
	if err := config.Decode("f", []byte(whole), &d); err != nil {
		t.Fatal(err)
	}
	got, err := config.Marshal(&d)
	if err != nil {
		t.Fatal(err)
	}
	golden.File(t, "testdata/whole.golden.yaml", got)
}

func TestMarshalZero(t *testing.T) {
	got, err := config.Marshal(document{})
	if err != nil {
		t.Fatal(err)
	}
	want := `verbose: false
routes: []
policies: {}
limits:
  small: 0
  port: 0
  narrow: 0
  ratio: 0
  size: 0
  note: ""
  extra: {}
note: null
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Text that YAML 1.1 would not read as a string is quoted too.
func TestMarshalQuotes(t *testing.T) {
	got, err := config.Marshal(struct{ A, B, C, D, E string }{"yes", "N", "10", "null", "no way"})
	if want := "a: \"yes\"\nb: \"N\"\nc: \"10\"\nd: \"null\"\ne: no way\n"; err != nil || string(got) != want {
		t.Errorf("error %v, got\n%s\nwant\n%s", err, got, want)
	}
}

// A string reads back as the same string, whatever its bare text would mean in YAML.
func TestStringsReadBack(t *testing.T) {
	for _, s := range []string{
		"", " ", "a", " a", "a ", "a: b", "a #b", "#", "- a", "-", "?", ":", "~", "null", "Null", "true", "False", "yes", "NO", "on", "y",
		"1", "1.5", "1e3", "0x10", "0o7", "010", "1_000", ".5", ".nan", "-.inf", "+1", "12:30:45", "2001-01-01", "<<", "=", "!x", "!!str", "&a", "*a",
		"[a]", "{a}", "a,b", "'", "\"", "\\", "a'b\"c", "@a", "`a", "%a", "|", ">", "---", "...", "a\nb", "\n", "a\n", "\n\n a\n  b \n", "\t", "a\tb", "\t\nx",
		"\r\n", "\x00", "\x07", "\x7f", "\u0085", "\u2028", "\ufeff", "\ufffd", "ü", "日本", "😀", "a\u00a0b", strings.Repeat("long text ", 100),
		"GET /orders/{id}", "/api/{rest...}", "http://flaky-server:5000",
	} {
		want := document{Limits: limits{Note: textual{s}, Extra: map[string]string{"k": s, clipped(s): "v"}}, Note: &s, Routes: []route{{s, "/"}}}
		printed, err := config.Marshal(want)
		if err != nil {
			t.Errorf("%q: got error %v, want none", s, err)
			continue
		}
		got := document{Policies: map[string]policy{}}
		want.Policies = map[string]policy{}
		if err := config.Decode("f", printed, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got error %v or another value, want it unchanged, from\n%s", s, err, printed)
		}
	}
}

// clipped cuts s to the longest allowed key.
func clipped(s string) string { return s[:min(len(s), 256)] }

func TestNumbersReadBack(t *testing.T) {
	for _, f := range []float64{0, 1, -1, 0.1, 1.0 / 3, 1e21, 1e-7, 123456789, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1)} {
		for _, d := range []time.Duration{0, 1, time.Second, 1500 * time.Millisecond, math.MaxInt64, math.MinInt64} {
			want := document{
				Limits:   limits{Ratio: f, Narrow: float32(min(f, 1)) / 3, Small: -128, Size: 1 << 20},
				Policies: map[string]policy{"p": {Timeout: max(d, 0), Retry: retry{MaxAttempts: math.MaxInt}}},
			}
			printed, err := config.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got document
			if err := config.Decode("f", printed, &got); err != nil {
				t.Errorf("%g, %s: got error %v, want none", f, d, err)
			}
			if got.Limits.Ratio != f || math.Signbit(got.Limits.Ratio) != math.Signbit(f) || got.Limits.Narrow != want.Limits.Narrow ||
				got.Limits.Size != want.Limits.Size || !reflect.DeepEqual(got.Policies["p"].Timeout, max(d, 0)) || got.Policies["p"].Retry.MaxAttempts != math.MaxInt {
				t.Errorf("%g, %s: got %+v, want %+v", f, d, got, want)
			}
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		value any
		want  string
	}{
		"nil":        {nil, "marshalling: expected a struct, got <nil>"},
		"map":        {map[string]int{}, "marshalling: expected a struct, got map[string]int"},
		"nan":        {limits{Ratio: math.NaN()}, "marshalling config_test.limits: ratio: expected a finite number, got NaN"},
		"infinite":   {&document{Policies: map[string]policy{"a.b": {Retry: retry{Factor: math.Inf(1)}}}}, `marshalling *config_test.document: policies["a.b"].retry.factor: expected a finite number, got +Inf`},
		"not_utf8":   {document{Routes: []route{{Name: "a\xff"}}}, `marshalling config_test.document: routes[0].name: expected UTF-8 text, got "a\xff"`},
		"a_long_key": {limits{Extra: map[string]string{strings.Repeat("k", 257): ""}}, "marshalling config_test.limits: extra: expected keys of at most 256 bytes, got 257"},
		"a_channel":  {struct{ C chan int }{}, "marshalling struct { C chan int }: c: cannot be configured: its type is chan int"},
		"bad_text":   {struct{ When time.Time }{time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, "marshalling struct { When time.Time }: when: Time.MarshalText: year outside of range [0,9999]"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := config.Marshal(tc.value)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got %v and\n%s\nwant %s", err, got, tc.want)
			}
		})
	}
}
