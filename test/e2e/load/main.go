// Command load calls a URL at a steady rate from inside a cluster. When it receives a signal or its
// time is up, it prints the results as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Result is the JSON that the program prints.
type Result struct {
	Calls  int            `json:"calls"`
	Failed int            `json:"failed"`
	How    map[string]int `json:"how"` // the failed ones, by status or error
	// Resent calls were sent again by net/http itself, on another connection.
	Resent int `json:"resent"`
}

func main() {
	url := flag.String("url", "", "what to `GET`")
	rate := flag.Int("rate", 50, "calls a second")
	limit := flag.Duration("for", 5*time.Minute, "for how long at most")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	result := Result{How: map[string]int{}}
	var mu sync.Mutex
	var calls sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	fmt.Println("begun")
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			calls.Go(func() {
				resent, failure := call(client, *url)
				mu.Lock()
				defer mu.Unlock()
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
	text, err := json.Marshal(result)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}

func call(client *http.Client, url string) (resent int, failure string) {
	sent := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { sent++ },
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := client.Do(req)
	resent = max(0, sent-1)
	if err != nil {
		return resent, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return resent, err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return resent, resp.Status
	}
	return resent, ""
}
