package config_test

import (
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
