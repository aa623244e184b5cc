package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

// TestMalformed decodes every document in testdata/malformed and compares the errors with one
// golden file, which makes all messages easy to review.
func TestMalformed(t *testing.T) {
	const path = "testdata/malformed.golden"
	files, err := filepath.Glob("testdata/malformed/*.yaml")
	if err != nil || len(files) < 100 {
		t.Fatalf("found %d documents (error %v), want at least 100", len(files), err)
	}
	wanted := make(map[string]string)
	if list, err := os.ReadFile(path); err == nil {
		for part := range strings.SplitSeq(strings.TrimSpace(string(list)), "\n\n") {
			name, _, _ := strings.Cut(part, ":")
			wanted[name] = part
		}
	} else if !golden.Updating() {
		t.Fatal(err)
	}
	var list []string
	for _, file := range files {
		name := filepath.Base(file)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			before := document{common: common{Verbose: true}, Limits: limits{Extra: map[string]string{"a": "b"}}}
			got := before
			err = config.Decode(name, data, &got)
			if err == nil {
				t.Fatalf("got %+v, want an error", got)
			}
			if !reflect.DeepEqual(got, before) {
				t.Errorf("got target %+v, want it unchanged: %+v", got, before)
			}
			mistakes, ok := errors.AsType[*mistake.List](err)
			if !ok || len(*mistakes) == 0 {
				t.Fatalf("got %T, want mistakes", err)
			}
			for _, m := range *mistakes {
				if lines := strings.Count(string(data), "\n") + 1; m.Line > lines || m.Line > 0 && m.Column < 1 {
					t.Errorf("got place %d:%d, want one in the document: %v", m.Line, m.Column, m)
				}
			}
			list = append(list, err.Error())
			if !golden.Updating() && err.Error() != wanted[name] {
				t.Errorf("got\n%v\nwant\n%s", err, wanted[name])
			}
		})
	}
	if golden.Updating() && len(list) == len(files) {
		golden.Write(t, path, strings.Join(list, "\n\n")+"\n")
	}
}

// TestHostile decodes documents that are built to waste time or memory.
func TestHostile(t *testing.T) {
	bomb := func(first string) string {
		var b strings.Builder
		b.WriteString("limits:\n  extra: &a0 " + first + "\nnested:\n")
		for i := range 9 {
			fmt.Fprintf(&b, "  a%d: &a%[1]d {<<: [%s]}\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
		}
		return b.String()
	}
	var unknown strings.Builder
	for i := range 60 {
		fmt.Fprintf(&unknown, "unknown%d: 1\n", i)
	}
	for name, tc := range map[string]struct{ document, want string }{
		"too_large":      {"note: " + strings.Repeat("x", 1<<20), "f:1:1: expected at most 1 MiB, got more"},
		"line_of_10_MB":  {strings.Repeat("x", 10<<20), "f:1:1: expected at most 1 MiB, got more"},
		"deep_flow":      {"note: " + strings.Repeat("[", 1<<19), "f:1:1: exceeded max depth of 10000"},
		"deep_block":     {strings.Repeat("- ", 1<<18), "f:1:1: exceeded max depth of 10000"},
		"merge_bomb":     {bomb("{k: v}"), "expected at most 100000 values in a document, aliases included"},
		"empty_bomb":     {bomb("{}"), "expected at most 100000 values in a document, aliases included"},
		"long_list":      {"policies: {a: {retry: {statuses: [" + strings.Repeat("1,", 100_001) + "]}}}", "expected at most 100000 values in a document, aliases included"},
		"long_value":     {"verbose: " + strings.Repeat("ü", 1000), "f:1:10: verbose: expected true or false, got \"" + strings.Repeat("ü", 60) + "…\""},
		"many_mistakes":  {unknown.String(), "and 10 more"},
		"long_key":       {"\"" + strings.Repeat("k", 1000) + "\": {}", "…\"]: expected a key of at most 256 bytes, got 1000"},
		"unclosed_quote": {"note: \"" + strings.Repeat("x\n", 1<<18), "f:1:1: this quote is never closed"},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			err := config.Decode("f", []byte(tc.document), &document{})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
			// The limit is generous for busy machines. Without the checks, each document takes
			// minutes or exhausts memory.
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %s, want at most 20s", took)
			}
		})
	}

	// tree nests, so that aliases expand to billions of values.
	type tree struct {
		Children []*struct {
			Leaves []string `yaml:"leaves"`
		} `yaml:"children"`
	}
	t.Run("alias_bomb", func(t *testing.T) {
		leaves := "[" + strings.TrimSuffix(strings.Repeat("a,", 1000), ",") + "]"
		document := "children: [&x {leaves: " + leaves + "}, " + strings.TrimSuffix(strings.Repeat("*x,", 1000), ",") + "]"
		err := config.Decode("f", []byte(document), &tree{})
		if err == nil || !strings.Contains(err.Error(), "expected at most 100000 values") {
			t.Errorf("got %v, want a limit on values", err)
		}
		var mistakes mistake.List
		if mistakes.Merge("", err); len(mistakes) != 1 {
			t.Errorf("got %d mistakes, want one", len(mistakes))
		}
	})
}
