package main

import (
	"encoding/json"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
)

// jsonOf runs a command that prints JSON.
func jsonOf[T any](t *testing.T, args ...string) T {
	t.Helper()
	code, out, errs := execute(t, args...)
	var got T
	if err := json.Unmarshal([]byte(out), &got); code != cli.ExitOK || err != nil {
		t.Fatalf("got exit code %d, error %v, stdout %s, stderr %s", code, err, out, errs)
	}
	return got
}

// The boundaries of compare are for the capacity and the seed that its title names.
func TestCompareFindsTheBoundaryOfItsFlags(t *testing.T) {
	t.Parallel()
	empty := files.Temp(t, "empty.yaml", "")
	load := []string{"--config", istio, "--clients", "2", "--capacity", "10"}
	alone := jsonOf[struct{ Boundaries []located }](t, append([]string{"boundary", "--json", "--seeds", "3"}, load...)...).Boundaries[0].BySeed
	if alone[0] == alone[2] {
		t.Fatalf("got the boundaries %v: this test needs seeds that differ", alone)
	}
	for seed, flag := range map[int]string{1: "1", 3: "3"} {
		c := jsonOf[changes](t, append([]string{
			"compare", "--before", empty, "--boundary", "--format", "json", "--scenario", "outage-hanging", "--rate", "1", "--seed", flag,
		}, load...)...)
		if got, want := c.Changes[0].BoundaryAfter.Percent, alone[seed-1]; got != want {
			t.Errorf("seed %d: got %d %%, want %d %% as lab boundary finds", seed, got, want)
		}
	}
	if code, _, errs := execute(t, append([]string{"compare", "--before", empty, "--boundary"}, append(load, "--capacity", "0")...)...); code != cli.ExitUsage {
		t.Errorf("without a capacity: got exit code %d, stderr %q", code, errs)
	}
}
