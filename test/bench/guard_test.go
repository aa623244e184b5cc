package bench_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// pathVariable makes this test binary a process that walks one path of the library, as often as
// walksVariable says.
const (
	pathVariable  = "BENCH_PATH"
	walksVariable = "BENCH_WALKS"
)

// The paths whose instructions are counted.
const (
	pathSuccess    = "a successful call"
	pathAsked      = "a successful call, asked for its end"
	pathSampledOut = "a successful call, traces sampled out"
	pathRefusal    = "a refusal by an open circuit"
)

// walk makes calls along one path.
func walk(path, times string) error {
	n, err := strconv.Atoi(times)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, err := newRequest(ctx)
	if err != nil {
		return err
	}
	var rt http.RoundTripper
	call := roundTrip
	switch path {
	case pathSuccess:
		rt, err = transport.New(memory{http.StatusOK}, transport.DefaultPolicy())
	case pathAsked:
		rt, err = transport.New(asking{memory{http.StatusOK}}, transport.DefaultPolicy())
	case pathSampledOut:
		rt, err = sampled(sdktrace.NeverSample())
	case pathRefusal:
		call = refuse
		rt, err = refusing(req)
	default:
		err = fmt.Errorf("no path is called %q", path)
	}
	for ; err == nil && n > 0; n-- {
		err = call(rt, req)
	}
	return err
}

// figures are the contents of testdata/instructions.json.
type figures struct {
	// Made names what the figures depend on besides the code.
	Made         map[string]string  `json:"made"`
	Instructions map[string]float64 `json:"instructions"` // of one call, by path
}

const (
	figuresFile = "testdata/instructions.json"
	// tolerance is above the noise: the counts of one binary differ by up to 1 %.
	tolerance = 0.03
)

// The success path and the refusal need no more instructions than the committed figures say. The
// count does not depend on the machine's load, as a time does.
func TestInstructions(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		t.Skip("no valgrind, which counts the instructions: ", err)
	}
	made := map[string]string{
		"go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH,
		"valgrind": versionOf(t, valgrind), "processor": vectors(),
	}
	var want figures
	data, err := os.ReadFile(figuresFile)
	if err == nil {
		err = json.Unmarshal(data, &want)
	}
	if err != nil && !golden.Updating() {
		t.Fatal(err)
	}
	if !golden.Updating() && !maps.Equal(made, want.Made) {
		t.Skipf("the figures in %s were made with %v, and this is %v: they depend on it. Write them again with\n\t%s", figuresFile, want.Made, made, howToUpdate)
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	got := figures{made, map[string]float64{}}
	for _, path := range []string{pathSuccess, pathAsked, pathSampledOut, pathRefusal} {
		n := onePath(t, valgrind, binary, path)
		// Noise adds to a run. The figure is the difference of two, so noise raises or lowers it.
		for range 2 {
			switch {
			case golden.Updating():
			case n > want.Instructions[path]*(1+tolerance):
				n = min(n, onePath(t, valgrind, binary, path))
			case n < want.Instructions[path]*(1-tolerance):
				n = max(n, onePath(t, valgrind, binary, path))
			}
		}
		t.Logf("%s: %.0f instructions", path, n)
		got.Instructions[path] = float64(int(n))
	}
	if golden.Updating() {
		data, err := json.MarshalIndent(got, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(figuresFile, append(data, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, path := range slices.Sorted(maps.Keys(got.Instructions)) {
		if problem := compareFigures(path, got.Instructions[path], want.Instructions[path]); problem != "" {
			t.Error(problem)
		}
	}
}

const howToUpdate = "go -C test/bench test -run TestInstructions -update ."

// compareFigures returns what is wrong with a figure, or "".
func compareFigures(path string, got, want float64) string {
	change := got/want - 1
	switch {
	case want == 0:
		return fmt.Sprintf("%s: %s has no figure. Write it with\n\t%s", path, figuresFile, howToUpdate)
	case change > tolerance:
		return fmt.Sprintf("%s takes %.0f instructions, %.1f %% more than the %.0f in %s; %.0f %% are allowed.\n"+
			"Make it cheaper, or say in the commit why it is worth that, and write the new figures with\n\t%s\n"+
			"They depend on the version of Go, on GOARCH and on what the processor can do.",
			path, got, 100*change, want, figuresFile, 100*tolerance, howToUpdate)
	case change < -tolerance:
		return fmt.Sprintf("%s takes %.0f instructions, %.1f %% fewer than the %.0f in %s. Keep that: write the new figures with\n\t%s",
			path, got, -100*change, want, figuresFile, howToUpdate)
	}
	return ""
}

// A figure must stay within the tolerance in both directions: one that is too high would let the
// next change be as slow as before.
func TestFiguresAreCompared(t *testing.T) {
	for name, tc := range map[string]struct {
		got, want float64
		contains  string
	}{
		"the same":         {1000, 1000, ""},
		"a little more":    {1029, 1000, ""},
		"a little less":    {971, 1000, ""},
		"too much more":    {1031, 1000, "3.1 % more than the 1000"},
		"too much less":    {960, 1000, "4.0 % fewer than the 1000"},
		"without a figure": {1000, 0, "has no figure"},
	} {
		t.Run(name, func(t *testing.T) {
			problem := compareFigures("a call", tc.got, tc.want)
			if (problem == "") != (tc.contains == "") || !strings.Contains(problem, tc.contains) {
				t.Errorf("got %q, want it to contain %q", problem, tc.contains)
			}
			if problem != "" && !strings.Contains(problem, howToUpdate) {
				t.Errorf("%q does not say how to update the figures", problem)
			}
		})
	}
}

// onePath returns the instructions of one call: the difference between a run with twice as many
// calls and one, which is without what a process does once.
func onePath(t *testing.T, valgrind, binary, path string) float64 {
	t.Helper()
	calls := 8000 // as many as make the noise of the runtime, a few 100,000 instructions, small
	if path == pathRefusal {
		calls *= 5
	}
	count := func(n int) float64 {
		return guestInstructions(t, valgrind, binary, "", pathVariable+"="+path, walksVariable+"="+strconv.Itoa(n))
	}
	return (count(2*calls) - count(calls)) / float64(calls)
}

func versionOf(t *testing.T, valgrind string) string {
	out, err := exec.CommandContext(t.Context(), valgrind, "--version").Output() //nolint:gosec // found in PATH
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// vectors returns which of the instructions that the Go runtime chooses by the processor are there.
func vectors() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	have := strings.Fields(string(info))
	known := slices.DeleteFunc([]string{"aes", "avx", "avx2", "bmi2", "erms"}, func(f string) bool { return !slices.Contains(have, f) })
	return strings.Join(known, " ")
}
