// Command load calls a URL at a steady rate from inside a cluster. When it receives a signal or its
// time is up, it prints the results as JSON. With -serve or -uploads it is an upstream instead.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Result is the JSON that the program prints.
type Result struct {
	Calls  int            `json:"calls"`
	Failed int            `json:"failed"`
	How    map[string]int `json:"how"` // the failed ones, by status or error
	// Before are the calls of -first that failed, as in How. No other field counts them.
	Before map[string]int `json:"before"`
	// Resent calls were sent again by net/http itself, on another connection.
	Resent int `json:"resent"`
	// P99 and Slowest are durations of calls, in seconds.
	P99     float64 `json:"p99"`
	Slowest float64 `json:"slowest"`
}

// keys counts the idempotency keys that were sent.
var keys atomic.Int64 //nolint:gochecknoglobals // of the process

func main() {
	url := flag.String("url", "", "what to `GET`")
	size := flag.Int("post", 0, "POST so many `BYTES` with an Idempotency-Key instead")
	patience := flag.Duration("first", 0, "wait so long at most for a first answer of 200, which is not counted; failures until then are counted apart")
	rate := flag.Int("rate", 50, "calls a second")
	limit := flag.Duration("for", 5*time.Minute, "for how long at most")
	untrusted := flag.Bool("any-certificate", false, "accept every certificate of -url")
	uploads := flag.String("uploads", "", "serve uploads on `ADDR` instead")
	addr := flag.String("serve", "", "serve HTTPS on `ADDR` instead")
	dir := flag.String("files", ".", "with -serve: the `FOLDER` of its certificates")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	switch {
	case *uploads != "":
		err = serveUploads(ctx, *uploads)
	case *addr != "":
		err = serve(ctx, *addr, *dir)
	default:
		err = load(ctx, *url, strings.Repeat("x", *size), *rate, *patience, *limit, *untrusted)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// load makes calls and prints their results.
func load(ctx context.Context, url, body string, rate int, patience, limit time.Duration, untrusted bool) error {
	// Keep every connection: after a stall, new ones and their lookups would prolong it.
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 10_000, TLSClientConfig: &tls.Config{InsecureSkipVerify: untrusted}, //nolint:gosec // a flag for tests
	}}
	result := Result{How: map[string]int{}, Before: map[string]int{}}
	// A node learns of new pods' addresses a moment after they are ready.
	for begin := time.Now(); time.Since(begin) < patience && ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
		_, failure := call(client, url, body)
		if failure == "" {
			break
		}
		result.Before[failure]++
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var took []float64
	var mu sync.Mutex
	var calls sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	fmt.Println("begun")
	start, begun := time.Now(), 0
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		// A ticker drops ticks on a busy machine, so this goes by the clock.
		for ; begun < int(time.Since(start).Seconds()*float64(rate)); begun++ {
			calls.Go(func() {
				sent := time.Now()
				resent, failure := call(client, url, body)
				duration := time.Since(sent).Seconds()
				mu.Lock()
				defer mu.Unlock()
				took = append(took, duration)
				result.Calls++
				result.Resent += resent
				if failure != "" {
					result.Failed++
					result.How[failure]++
					fmt.Println(time.Now().UTC().Format(time.TimeOnly), failure)
				}
			})
		}
	}
	calls.Wait()
	if slices.Sort(took); len(took) > 0 {
		result.P99, result.Slowest = took[len(took)*99/100], took[len(took)-1]
	}
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	fmt.Println(string(text))
	return nil
}

// call posts a body, or gets the URL if there is none.
func call(client *http.Client, url, body string) (resent int, failure string) {
	sent := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { sent++ },
	})
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err.Error()
	}
	if body != "" {
		req.Header.Set("Idempotency-Key", strconv.Itoa(int(keys.Add(1))))
	}
	resp, err := client.Do(req)
	resent = max(0, sent-1)
	if err != nil {
		return resent, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return resent, resp.Status + ", " + err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		var problem struct{ Reason string }
		_ = json.Unmarshal(text, &problem) // no reason if it is not the gateway's
		if problem.Reason == "" {
			return resent, resp.Status
		}
		return resent, resp.Status + ", " + problem.Reason
	}
	return resent, ""
}
