package mistake_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rebound-dev/rebound/internal/mistake"
)

func TestMerge(t *testing.T) {
	cause := errors.New("must be more")
	below := mistake.New("retry.maxAttempts", "must be at least %d, got %d: %w", 1, 0, errors.ErrUnsupported)
	for name, tc := range map[string]struct {
		path string
		err  error
		want string
	}{
		"nil":            {"a", nil, ""},
		"nothing_joined": {"a", errors.Join(nil, nil), ""},
		"no_path":        {"a", cause, "a: must be more"},
		"no_path_at_all": {"", cause, "must be more"},
		"below":          {"policies.a", below, "policies.a.retry.maxAttempts: must be at least 1, got 0: unsupported operation"},
		"below_an_index": {"routes", mistake.New("[0]", "is wrong"), "routes[0]: is wrong"},
		"below_the_root": {"", mistake.New("a", "is wrong"), "a: is wrong"},
		"list":           {"a", mistake.List{mistake.New("b", "is wrong"), mistake.New("", "is empty")}.Err(), "a.b: is wrong\na: is empty"},
		"joined":         {"a", errors.Join(cause, errors.Join(mistake.New("b", "is wrong"), cause)), "a: must be more\na.b: is wrong\na: must be more"},
		"placed":         {"", &mistake.Mistake{File: "f", Line: 2, Column: 3, Path: "a", Message: "is wrong"}, "f:2:3: a: is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			var l mistake.List
			l.Merge(tc.path, tc.err)
			if got := l.Error(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if err := l.Err(); (err != nil) != (tc.want != "") {
				t.Errorf("Err() = %v, want an error exactly if there is a mistake", err)
			}
		})
	}
	if below.Path != "retry.maxAttempts" {
		t.Errorf("Merge changed the path of its argument to %q, want it unchanged", below.Path)
	}
	var l mistake.List
	l.Merge("a", errors.Join(below, cause))
	err := l.Err()
	for _, want := range []error{cause, errors.ErrUnsupported, err} {
		if !errors.Is(err, want) {
			t.Errorf("errors.Is(%v, %v) = false, want true", err, want)
		}
	}
	if m, ok := errors.AsType[*mistake.Mistake](fmt.Errorf("wrapped: %w", err)); !ok || m.Path != "a.retry.maxAttempts" {
		t.Errorf("errors.AsType returned %v, want the first mistake", m)
	}
}
