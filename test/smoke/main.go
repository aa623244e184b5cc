// Command smoke calls a URL many times and says how many calls succeeded. It is the button of that
// name in Tilt, and serves any stack that is running:
//
//	go run ./test/smoke http://localhost:8080/process
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"
)

// callTimeout is longer than the longest timeout of the policies it is used with.
const callTimeout = 15 * time.Second

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// run returns the exit code: 0, 1 if too few calls succeeded, 2 for wrong arguments.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("smoke", flag.ContinueOnError)
	fs.SetOutput(stderr)
	calls := fs.Int("calls", 200, "how many calls, one after the other: `N`, at least 1")
	least := fs.Float64("least", 0.99, "the share that has to succeed, `0 to 1`")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() != 1 || *calls < 1 || *least < 0 || *least > 1 {
		fmt.Fprintln(stderr, "usage: smoke [--calls 200] [--least 0.99] URL")
		return 2
	}
	url := fs.Arg(0)
	if _, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil); err != nil {
		fmt.Fprintln(stderr, "smoke:", err)
		return 2
	}

	results, succeeded, attempts := map[string]int{}, 0, 0
	began := time.Now()
	for range *calls {
		status, n, err := call(ctx, url)
		switch {
		case err != nil:
			results[err.Error()]++
		default:
			results[strconv.Itoa(status)]++
		}
		if err == nil && status/100 == 2 {
			succeeded++
		}
		attempts += n
	}

	share := float64(succeeded) / float64(*calls)
	fmt.Fprintf(stdout, "%d of %d calls succeeded (%.1f %%), with %d attempts in %v\n",
		succeeded, *calls, 100*share, attempts, time.Since(began).Round(time.Millisecond))
	for _, result := range slices.Sorted(maps.Keys(results)) {
		fmt.Fprintf(stdout, "%6d × %s\n", results[result], result)
	}
	if share < *least {
		fmt.Fprintf(stderr, "smoke: fewer than %.1f %%\n", 100**least)
		return 1
	}
	return 0
}

// call makes one call. A body that breaks off is a failure too.
func call(ctx context.Context, url string) (status, attempts int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	attempts, _ = strconv.Atoi(res.Header.Get("X-Attempt-Count"))
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, attempts, fmt.Errorf("%d, then the body: %w", res.StatusCode, err)
	}
	return res.StatusCode, attempts, nil
}
