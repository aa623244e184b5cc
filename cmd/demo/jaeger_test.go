package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// tracePicture is drawn from Jaeger's response.
const tracePicture = "../../docs/trace.svg"

// TestTracesInJaeger sends the demo's traces over OTLP to a real Jaeger, and reads them through its
// query API. JAEGER_BIN names the Jaeger binary; `.ci/run jaeger` builds one.
func TestTracesInJaeger(t *testing.T) {
	binary := os.Getenv("JAEGER_BIN")
	if binary == "" {
		t.Skip("JAEGER_BIN is not set; .ci/run jaeger builds one and runs this test")
	}
	j := startJaeger(t, binary)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", j.otlp)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
	policy := t.TempDir() + "/rebound.yaml"

	// demo runs the program with a policy and faults, makes the calls, and stops the program, which
	// flushes the spans. During calls, admin is the client's admin port, and ledger the upstream's.
	var admin, ledger string
	demo := func(t *testing.T, faults, overrides string, calls func(client string)) (began time.Time) {
		t.Helper()
		began = time.Now()
		flakyAddress := rawhttp.FreeAddress(t)
		file := fmt.Sprintf("routes:\n  - {name: process, match: GET /process, upstream: \"http://%s\"}\npolicies:\n  default:\n%s", flakyAddress, overrides)
		if err := os.WriteFile(policy, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		lines, stop := start(t, os.LookupEnv, "--flaky-listen", flakyAddress, "--config", policy, "--traffic", "0", "--traces", j.query)
		urls := map[string]string{}
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "Try:") {
			if fields := strings.Fields(lines.Text()); len(fields) > 1 && strings.HasPrefix(fields[0], "http://") {
				for _, name := range []string{"through the client", "the upstream's faults", "the client's admin port"} {
					if strings.Contains(lines.Text(), name) {
						urls[name] = fields[0]
					}
				}
			}
		}
		admin, ledger = urls["the client's admin port"], strings.Replace(urls["the upstream's faults"], "/faults", "/ledger", 1)
		fetch.Send(t, http.MethodPut, urls["the upstream's faults"], faults)
		calls(urls["through the client"])
		if code := stop(); code != 0 {
			t.Fatalf("got exit code %d, want 0", code)
		}
		return began
	}

	t.Run("two attempts fail", func(t *testing.T) {
		var spans []jaegerSpan
		// On a busy machine a timer is late, and so is the end of a span.
		wait.OneOf(t, 3, func() (missed string) {
			var timing string
			began := demo(t, "{failFirst: 2, latency: {distribution: fixed, value: 25ms}}", "    retry: {maxAttempts: 3}\n", func(client string) {
				resp, _ := fetch.Get(t, client)
				timing = resp.Header.Get("Server-Timing")
			})
			spans = j.trace(t, began, 10)
			var attempts, waits, upstream []jaegerSpan
			server, calls := 0, 0
			for _, s := range spans {
				switch kind := s.tag("span.kind"); {
				case kind == "client":
					attempts = append(attempts, s)
				case s.OperationName == "backoff":
					waits = append(waits, s)
				case s.OperationName == "resilience process":
					calls++
				case kind == "server" && s.service == "flaky-server":
					upstream = append(upstream, s)
				case kind == "server" && s.service == "client":
					server++
				}
			}
			if server != 1 || calls != 1 || len(attempts) != 3 || len(waits) != 2 || len(upstream) != 3 {
				t.Fatalf("got %d server, %d resilience, %d attempt, %d backoff and %d upstream spans, want 1, 1, 3, 2 and 3", server, calls, len(attempts), len(waits), len(upstream))
			}
			for i, want := range []struct{ verdict, resend, fault string }{{"retry", "", "error"}, {"retry", "1", "error"}, {"return", "2", "none"}} {
				a := attempts[i]
				if a.tag("rebound.verdict") != want.verdict || a.tag("http.request.resend_count") != want.resend {
					t.Errorf("attempt %d: got verdict %s, resend count %q, want %+v", i+1, a.tag("rebound.verdict"), a.tag("http.request.resend_count"), want)
				}
				if upstream[i].parent() != a.SpanID || upstream[i].tag("rebound.fault") != want.fault {
					t.Errorf("upstream span %d: got parent %s, fault %q, want %s, %q", i+1, upstream[i].parent(), upstream[i].tag("rebound.fault"), a.SpanID, want.fault)
				}
			}
			// The spans have the waits that the response reported to the caller.
			for i, m := range regexp.MustCompile(`wait\d;dur=([\d.]+)`).FindAllStringSubmatch(timing, -1) {
				want, _ := strconv.ParseFloat(m[1], 64)
				if got := float64(waits[i].Duration) / 1000; got < want-25 || got > want+25 {
					return fmt.Sprintf("wait %d: got a span of %v ms, want %v ms as in Server-Timing", i+1, got, want)
				}
			}
			return ""
		})
		// The picture in the documentation shows this trace.
		drawn := picture(spans)
		if golden.Updating() {
			golden.Write(t, tracePicture, drawn)
		}
		if kept, err := os.ReadFile(tracePicture); err != nil || !slices.Equal(words(drawn), words(string(kept))) {
			t.Errorf("%s: got texts %q (error %v), want %q; run the test with -update and look at the picture", tracePicture, words(string(kept)), err, words(drawn))
		}
	})
	t.Run("the live page links to it", func(t *testing.T) {
		var calls struct{ Calls []struct{ TraceID string } }
		var state struct{ Settings struct{ Traces string } }
		demo(t, "{}", "    retry: {maxAttempts: 1}\n", func(client string) {
			fetch.Get(t, client)
			for began := time.Now(); len(calls.Calls) == 0 && time.Since(began) < 30*time.Second; {
				get(t, admin+"/api/calls", &calls)
				<-time.After(20 * time.Millisecond) // the page gathers calls five times a second
			}
			get(t, admin+"/api/state", &state)
		})
		if len(calls.Calls) != 1 {
			t.Fatalf("got %d calls on the page, want one", len(calls.Calls))
		}
		id := calls.Calls[0].TraceID
		if link := strings.ReplaceAll(state.Settings.Traces, "{id}", id); link != j.query+"/trace/"+id {
			t.Errorf("got link %s, want %s/trace/%s", link, j.query, id)
		}
		var answer struct {
			Data []struct{ Spans []jaegerSpan }
		}
		for began := time.Now(); (len(answer.Data) == 0 || len(answer.Data[0].Spans) < 4) && time.Since(began) < 30*time.Second; {
			get(t, j.query+"/api/traces/"+id, &answer)
			<-time.After(20 * time.Millisecond) // Jaeger is another process: there is nothing to wait on
		}
		if len(answer.Data) != 1 || len(answer.Data[0].Spans) != 4 {
			t.Errorf("trace %s in Jaeger: got %+v, want four spans", id, answer)
		}
	})
	t.Run("the circuit is open", func(t *testing.T) {
		var second time.Time
		demo(t, "errorRate: 1", "    breaker: {consecutiveFailures: 1, openFor: 1m, maxOpenFor: 1m}\n", func(client string) {
			fetch.Get(t, client)
			second = time.Now()
			fetch.Get(t, client)
		})
		spans := j.trace(t, second, 2)
		if len(spans) != 2 {
			t.Fatalf("got %d spans, want the server's and the call's", len(spans))
		}
		if call := spans[1]; call.tag("rebound.reason") != "breaker_open" || !call.event("attempt refused") {
			t.Errorf("got %+v, want reason breaker_open and an event \"attempt refused\"", call)
		}
	})

	// Each case makes one call. Its span and the span of its last attempt show what happened.
	for name, tc := range map[string]struct {
		faults, policy string
		header         [2]string
		leaves         bool // once the upstream has the call
		reason         string
		refused        bool
		attempts       int
		last           string // the reason of the last attempt
		waited         time.Duration
		source         string
	}{
		"the budget is empty": {
			faults: "errorRate: 1", policy: "    retry: {budget: {ratio: 0, burst: 0, floorPerSecond: 0}}\n",
			reason: "budget_exhausted", refused: true, attempts: 1, last: "status_503",
		},
		"the deadline is too close": {
			faults: "errorRate: 1", policy: "    retry: {backoff: {base: 4500ms, max: 4500ms, jitter: none}}\n", header: [2]string{"X-Envoy-Expected-Rq-Timeout-Ms", "4000"},
			reason: "deadline_too_close", refused: true, attempts: 1, last: "status_503",
		},
		"the upstream asks for patience": {
			faults: "{failFirst: 1, retryAfter: 1s}", policy: "    retry: {maxAttempts: 2}\n",
			reason: "ok", attempts: 2, last: "ok", waited: time.Second, source: "retry_after",
		},
		"the caller hangs up": {
			faults: "hangRate: 1", policy: "    attemptTimeout: 5s\n    retry: {maxAttempts: 2}\n", leaves: true,
			reason: "caller_canceled", attempts: 1, last: "caller_canceled",
		},
		"the body dies halfway": {
			faults: "truncateRate: 1", policy: "    retry: {maxAttempts: 2}\n",
			reason: "body_failed", attempts: 1, last: "body_failed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			began := demo(t, tc.faults, tc.policy, func(client string) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.leaves {
					go leave(cancel, ledger)
				}
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, client, nil)
				if err != nil {
					t.Fatal(err)
				}
				if tc.header[0] != "" {
					r.Header.Set(tc.header[0], tc.header[1])
				}
				resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
				if tc.leaves {
					// The client sees it a moment later. An earlier stop would reset the attempt.
					wait.Until(t, 30*time.Second, "the end of the call", func() bool {
						_, metrics := fetch.Get(t, admin+"/metrics")
						return strings.Contains(metrics, "\nrebound_calls_total{")
					})
				}
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			})
			var call, last, wait jaegerSpan
			attempts := 0
			for _, s := range j.trace(t, began, 2+2*tc.attempts) {
				switch {
				case s.OperationName == "resilience process":
					call = s
				case s.OperationName == "backoff":
					wait = s
				case s.tag("span.kind") == "client":
					last = s
					attempts++
				}
			}
			if call.tag("rebound.reason") != tc.reason || call.event("attempt refused") != tc.refused || attempts != tc.attempts || last.tag("rebound.reason") != tc.last {
				t.Errorf("got reason %q, refused %v, %d attempts, the last %q, want %+v",
					call.tag("rebound.reason"), call.event("attempt refused"), attempts, last.tag("rebound.reason"), tc)
			}
			if wait.tag("rebound.backoff.source") != tc.source || time.Duration(wait.Duration)*time.Microsecond < tc.waited {
				t.Errorf("got a wait of %v from %q, want %v from %q", time.Duration(wait.Duration)*time.Microsecond, wait.tag("rebound.backoff.source"), tc.waited, tc.source)
			}
		})
	}
}

// leave cancels a call when the ledger has it, after 30 s at the latest.
func leave(cancel func(), ledger string) {
	defer cancel()
	var received struct{ Received int }
	for began := time.Now(); received.Received == 0 && time.Since(began) < 30*time.Second; time.Sleep(5 * time.Millisecond) {
		if _, answer, err := fetch.Try(context.Background(), http.MethodGet, ledger, ""); err == nil {
			_ = json.Unmarshal([]byte(answer), &received)
		}
	}
}

// get decodes the JSON response of a URL.
func get(t *testing.T, url string, into any) {
	t.Helper()
	_, answer := fetch.Get(t, url)
	if err := json.Unmarshal([]byte(answer), into); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

type jaeger struct{ otlp, query string }

type jaegerSpan struct {
	SpanID        string
	OperationName string
	StartTime     int64
	Duration      int64 // µs
	ProcessID     string
	References    []struct{ SpanID string }
	Tags          []struct {
		Key   string
		Value any
	}
	Logs []struct {
		Fields []struct {
			Key   string
			Value any
		}
	}
	service string
}

func (s jaegerSpan) tag(key string) string {
	for _, t := range s.Tags {
		if t.Key == key {
			return fmt.Sprint(t.Value)
		}
	}
	return ""
}

func (s jaegerSpan) event(name string) bool {
	for _, l := range s.Logs {
		for _, f := range l.Fields {
			if f.Key == "event" && f.Value == name {
				return true
			}
		}
	}
	return false
}

func (s jaegerSpan) parent() string {
	if len(s.References) == 0 {
		return ""
	}
	return s.References[0].SpanID
}

// startJaeger runs the binary on free loopback ports. It keeps spans in memory.
func startJaeger(t *testing.T, binary string) jaeger {
	t.Helper()
	// Give every port of Jaeger a free loopback address.
	var addrs [8]string
	for i := range addrs {
		for addrs[i] == "" || slices.Contains(addrs[:i], addrs[i]) {
			addrs[i] = rawhttp.FreeAddress(t)
		}
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary,
		"--collector.otlp.http.host-port="+addrs[0], "--collector.otlp.grpc.host-port="+addrs[1],
		"--query.http-server.host-port="+addrs[2], "--query.grpc-server.host-port="+addrs[3],
		"--collector.http-server.host-port="+addrs[4], "--collector.grpc-server.host-port="+addrs[5],
		"--admin.http.host-port="+addrs[6], "--http-server.host-port="+addrs[7],
		"--processor.jaeger-compact.server-host-port=127.0.0.1:0", "--processor.jaeger-binary.server-host-port=127.0.0.1:0",
		"--processor.zipkin-compact.server-host-port=127.0.0.1:0")
	cmd.Env = append(os.Environ(), "SPAN_STORAGE_TYPE=memory", "OTEL_TRACES_SAMPLER=always_off", "OTEL_EXPORTER_OTLP_ENDPOINT=")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	j := jaeger{otlp: "http://" + addrs[0], query: "http://" + addrs[2]}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for began := time.Now(); time.Since(began) < 30*time.Second; {
		if resp, err := client.Get(j.query + "/api/services"); err == nil {
			_ = resp.Body.Close()
			return j
		}
		<-time.After(50 * time.Millisecond) // another process: nothing to wait on
	}
	t.Fatal("got no response from Jaeger in 30s, want it started")
	return j
}

// trace returns the spans of the newest trace that began after since, in the order of their start.
// Jaeger stores accepted spans a moment later, so trace asks until it has the wanted number of
// spans, or for half a minute.
func (j jaeger) trace(t *testing.T, since time.Time, spans int) []jaegerSpan {
	t.Helper()
	var newest []jaegerSpan
	for began := time.Now(); len(newest) < spans && time.Since(began) < 30*time.Second; {
		newest = j.newest(t, since)
		<-time.After(20 * time.Millisecond) // another process: nothing to wait on
	}
	if len(newest) == 0 {
		t.Fatal("got no new trace from Jaeger in 30s, want one")
	}
	return newest
}

func (j jaeger) newest(t *testing.T, since time.Time) (newest []jaegerSpan) {
	t.Helper()
	var answer struct {
		Data []struct {
			Spans     []jaegerSpan
			Processes map[string]struct{ ServiceName string }
		}
	}
	get(t, j.query+"/api/traces?service=client&limit=20&operation=resilience+process", &answer)
	after := since.UnixMicro()
	for _, d := range answer.Data {
		for i := range d.Spans {
			d.Spans[i].service = d.Processes[d.Spans[i].ProcessID].ServiceName
		}
		slices.SortStableFunc(d.Spans, func(a, b jaegerSpan) int { return int(a.StartTime - b.StartTime) })
		if first := d.Spans[0].StartTime; first > after {
			newest, after = d.Spans, first
		}
	}
	return newest
}
