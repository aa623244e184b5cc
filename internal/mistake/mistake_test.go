package mistake_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// at puts the mistakes in err below path.
func at(path string, err error) error {
	var l mistake.List
	l.Merge(path, mistake.Of(err))
	return l.Err()
}

// foreign is an error of another package.
type foreign struct{ path, text string }

func (f foreign) FieldPath() string { return f.path }
func (f foreign) Error() string     { return f.path + ": " + f.text }

func TestMerge(t *testing.T) {
	cause := errors.New("must be more")
	below := mistake.New("retry.maxAttempts", "must be at least %d, got %d", 1, 0)
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"nil":             {at("a", nil), "<nil>"},
		"nothing_joined":  {at("a", errors.Join(nil, nil)), "<nil>"},
		"no_path_of_its":  {at("a", cause), "a: must be more"},
		"below":           {at("policies.a", below), "policies.a.retry.maxAttempts: must be at least 1, got 0"},
		"below_an_index":  {at("routes", at("[0]", cause)), "routes[0]: must be more"},
		"below_the_root":  {at("", below), "retry.maxAttempts: must be at least 1, got 0"},
		"three_levels":    {at("a", at("b", at("c", cause))), "a.b.c: must be more"},
		"joined":          {at("a", errors.Join(cause, errors.Join(below, cause))), "a: must be more\na.retry.maxAttempts: must be at least 1, got 0\na: must be more"},
		"of_another_make": {at("a", foreign{"b", "must be less"}), "a.b: must be less"},
		"wrapped":         {at("a", fmt.Errorf("wrapped: %w", foreign{"b", "must be less"})), "a.b: wrapped: b: must be less"},
		"whole":           {mistake.New("", "is wrong"), "is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(tc.err); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	if err := at("a", errors.Join(below, cause)); !errors.Is(err, cause) || !errors.Is(err, below) {
		t.Errorf("%v does not lead to its causes", err)
	}
}
