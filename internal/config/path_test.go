package config_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
)

func TestPaths(t *testing.T) {
	for want, got := range map[string]string{
		"routes":                   config.Join("", "routes"),
		"policies.default":         config.Join("policies", "default"),
		"a.b_C-9":                  config.Join("a", "b_C-9"),
		`policies["a.b"].retry`:    config.Join(config.Join("policies", "a.b"), "retry"),
		`["a.b"]`:                  config.Join("", "a.b"),
		`policies[""]`:             config.Join("policies", ""),
		`policies["a\"]."]`:        config.Join("policies", `a"].`),
		`policies["größe"]`:        config.Join("policies", "größe"),
		"routes[1].match":          config.Join(config.Index("routes", 1), "match"),
		"[0]":                      config.Index("", 0),
		`policies["[0]"].statuses`: config.Join(config.Join("policies", "[0]"), "statuses"),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestAt(t *testing.T) {
	cause := errors.New("must be more")
	below := config.Errorf("retry.maxAttempts", "must be at least %d, got %d", 1, 0)
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"nil":             {config.At("a", nil), "<nil>"},
		"nothing_joined":  {config.At("a", errors.Join(nil, nil)), "<nil>"},
		"no_path_of_its":  {config.At("a", cause), "a: must be more"},
		"below":           {config.At("policies.a", below), "policies.a.retry.maxAttempts: must be at least 1, got 0"},
		"below_an_index":  {config.At("routes", config.At("[0]", cause)), "routes[0]: must be more"},
		"below_the_root":  {config.At("", below), "retry.maxAttempts: must be at least 1, got 0"},
		"three_levels":    {config.At("a", config.At("b", config.At("c", cause))), "a.b.c: must be more"},
		"joined":          {config.At("a", errors.Join(cause, errors.Join(below, cause))), "a: must be more\na.retry.maxAttempts: must be at least 1, got 0\na: must be more"},
		"of_another_make": {config.At("a", foreign{"b", "must be less"}), "a.b: must be less"},
		"wrapped":         {config.At("a", fmt.Errorf("wrapped: %w", foreign{"b", "must be less"})), "a.b: wrapped: b: must be less"},
		"whole":           {config.Errorf("", "is wrong"), "is wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(tc.err); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	if err := config.At("a", errors.Join(below, cause)); !errors.Is(err, cause) || !errors.Is(err, below) {
		t.Errorf("%v does not lead to its causes", err)
	}
}
