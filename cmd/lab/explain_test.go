package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

func explained(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), cli.Program{
		Name: "lab", Args: append([]string{"explain"}, args...), LookupEnv: func(string) (string, bool) { return "", false },
		Stdout: &out, Stderr: &err,
	})
	return code, out.String(), err.String()
}

// The first line of explain is what the pipeline would do. pkg/transport tests that the two agree
// on every combination.
func TestExplain(t *testing.T) {
	file := files.Temp(t, "rebound.yaml", `routes:
  - {name: orders, match: POST /orders, upstream: "http://upstream:5000", policy: patient}
  - {name: rest, match: "/{rest...}", upstream: "http://upstream:5000"}
  - {name: slow, match: /slow, upstream: "http://upstream:5000", policy: growing}
  - {name: host, match: b.example/, upstream: "http://upstream:5000"}
  - {name: stock, match: POST /orders.Orders/Stock, upstream: "h2c://upstream:5000", grpc: {idempotent: true}}
  - {name: limited, match: /limited, upstream: "http://upstream:5000", policy: limited}
policies:
  limited: {timeout: 60s, attemptTimeout: 30s, concurrency: {max: 10}, rateLimit: {perSecond: 0.4, burst: 3}}
  growing: {timeout: 20s, retry: {maxAttempts: 9, backoff: {jitter: decorrelated, base: 100ms, max: 2s}}}
  patient: {timeout: 20s, retry: {maxRetryAfter: 10s, backoff: {jitter: none}}}
`)
	for name, tc := range map[string]struct {
		args  []string
		says  []string // all of these must appear
		first string
	}{
		"the default policy":       {[]string{"GET /process", "--status", "503"}, []string{"policy default", "status_503", "1 of 3"}, "retry after 0s to 100ms (jitter)"},
		"flags first":              {[]string{"--status=503", "GET /process"}, nil, "retry after 0s to 100ms (jitter)"},
		"not idempotent":           {[]string{"--config", file, "POST /orders", "--status", "503", "--header", "Retry-After: 7", "--elapsed", "3s"}, []string{"route orders, policy patient", "POST without an Idempotency-Key", "7s, at most 10s"}, "give_up: the call ends with method_not_idempotent"},
		"a key":                    {[]string{"--config", file, "POST /orders", "--request-header", "Idempotency-Key: k", "--status", "503", "--header", "Retry-After: 7"}, []string{"POST with an Idempotency-Key"}, "retry after 7s to 8.75s (retry_after)"},
		"another route":            {[]string{"--config", file, "--route", "orders", "GET /", "--status", "503"}, []string{"policy patient"}, "retry after 100ms (jitter)"},
		"Retry-After too long":     {[]string{"GET /", "--status", "429", "--header", "retry-after: 6"}, []string{"6s, at most 5s"}, "give_up: the call ends with retry_after_too_long"},
		"the circuit is open":      {[]string{"GET /", "--error", "reset", "--breaker", "open"}, []string{"reset_before_headers"}, "give_up: the call ends with breaker_open"},
		"no place for a retry":     {[]string{"GET /", "--status", "503", "--concurrency", "reached"}, []string{"no place for a retry"}, "give_up: the call ends with concurrency_limit"},
		"no place":                 {[]string{"GET /", "--concurrency", "reached"}, []string{"policy default", "shut: concurrency_limit"}, "refused with concurrency_limit: the caller gets 503, Retry-After: 1"},
		"no place for long calls":  {[]string{"--config", file, "GET /limited", "--concurrency", "reached"}, nil, "refused with concurrency_limit: the caller gets 503, Retry-After: 6"},
		"over the rate limit":      {[]string{"--config", file, "GET /limited", "--rate-limit", "reached", "--concurrency", "reached"}, []string{"shut: concurrency_limit (decided already)"}, "refused with rate_limited: the caller gets 429, Retry-After: 3"},
		"refused by the circuit":   {[]string{"GET /", "--breaker", "open"}, nil, "refused with breaker_open: the caller gets 503, Retry-After: 1"},
		"no token":                 {[]string{"GET /", "--status", "502", "--tokens", "0"}, nil, "give_up: the call ends with budget_exhausted"},
		"nothing was sent":         {[]string{"POST /", "--error", "dial"}, []string{"not sent, POST"}, "retry after 0s to 100ms (jitter)"},
		"two ends, two reasons":    {[]string{"GET /", "--status", "503", "--elapsed", "4.95s", "--tokens", "0"}, nil, "depends on the jitter: with the shortest wait give_up: the call ends with budget_exhausted, with the longest (as below) give_up: the call ends with deadline_too_close"},
		"nothing of it was read":   {[]string{"POST /", "--error", "dial", "--body", "1MiB"}, nil, "retry after 0s to 100ms (jitter)"},
		"the caller's own limit":   {[]string{"GET /", "--status", "503", "--request-header", "X-Envoy-Expected-Rq-Timeout-Ms: 100", "--elapsed", "100ms"}, []string{"0s of"}, "give_up: the call ends with deadline_exceeded"},
		"waits that grow":          {[]string{"--config", file, "GET /slow", "--status", "503", "--attempt", "4"}, []string{"policy growing"}, "retry after 100ms to 2s (jitter)"},
		"a host in the pattern":    {[]string{"--config", file, "GET /", "--request-header", "Host: b.example", "--status", "503"}, []string{"route host"}, "retry after 0s to 100ms (jitter)"},
		"the last attempt":         {[]string{"GET /", "--status", "503", "--attempt", "3"}, nil, "give_up: the call ends with max_attempts"},
		"the call is over":         {[]string{"GET /", "--error", "timeout", "--elapsed", "5s"}, []string{"0s of 5s"}, "give_up: the call ends with deadline_exceeded"},
		"a large body":             {[]string{"PUT /", "--status", "503", "--body", "65KiB"}, nil, "give_up: the call ends with body_not_replayable"},
		"not a retryable status":   {[]string{"GET /", "--status", "500"}, []string{"shut: status_not_retryable"}, "return: the call ends with status_not_retryable"},
		"success":                  {[]string{"GET /", "--status", "200"}, []string{"no gate"}, "return: the call ends with ok"},
		"gRPC":                     {[]string{"grpc /orders.Orders/Create", "--status", "UNAVAILABLE"}, []string{"grpc_unavailable, which the circuit counts as a failure", "gRPC, not marked as idempotent"}, "give_up: the call ends with method_not_idempotent"},
		"gRPC, idempotent":         {[]string{"GRPC /orders.Orders/Create", "--status", "unavailable", "--idempotent"}, []string{"3 attempts, if all of them end so"}, "retry after 0s to 100ms (jitter)"},
		"gRPC, idempotent route":   {[]string{"--config", file, "grpc /orders.Orders/Stock", "--status", "14"}, []string{"route stock", "3 attempts"}, "retry after 0s to 100ms (jitter)"},
		"gRPC, in the trailers":    {[]string{"grpc /orders.Orders/Create", "--status", "14", "--idempotent", "--committed"}, []string{"counts as a failure", "UNAVAILABLE, after the response's headers"}, "return: the call ends with grpc_unavailable"},
		"gRPC, canceled":           {[]string{"grpc /orders.Orders/Create", "--status", "Canceled"}, []string{"counts as a success"}, "return: the call ends with status_not_retryable"},
		"gRPC, pushback":           {[]string{"grpc /orders.Orders/Create", "--status", "RESOURCE_EXHAUSTED", "--header", "grpc-retry-pushback-ms: 500"}, []string{"counts as a result that does not count", "asks for another attempt", "asked for, POST", "3 attempts"}, "retry after 500ms to 625ms (retry_after)"},
		"gRPC, no pushback":        {[]string{"grpc /orders.Orders/Create", "--status", "8"}, []string{"does not ask for another attempt"}, "return: the call ends with status_not_retryable"},
		"gRPC, stop":               {[]string{"grpc /orders.Orders/Create", "--status", "14", "--idempotent", "--header", "grpc-retry-pushback-ms: -1"}, []string{"asks for no further attempt"}, "return: the call ends with status_not_retryable"},
		"gRPC, little time":        {[]string{"grpc /orders.Orders/Create", "--status", "14", "--idempotent", "--request-header", "grpc-timeout: 100m", "--elapsed", "100ms"}, []string{"0s of"}, "give_up: the call ends with deadline_exceeded"},
		"gRPC, few tokens":         {[]string{"grpc /orders.Orders/Create", "--error", "dial", "--tokens", "1"}, []string{"2 attempts, if"}, "retry after 0s to 100ms (jitter)"},
		"gRPC, retried above":      {[]string{"grpc /orders.Orders/Create", "--status", "14", "--idempotent", "--request-header", "grpc-previous-rpc-attempts: 1"}, nil, "give_up: the call ends with retried_upstream_layer"},
		"gRPC, ok":                 {[]string{"grpc /orders.Orders/Create", "--status", "ok"}, []string{"no gate"}, "return: the call ends with ok"},
		"gRPC, refused":            {[]string{"grpc /orders.Orders/Create", "--breaker", "open"}, nil, "refused with breaker_open: the caller gets UNAVAILABLE, RetryInfo: 1 s"},
		"gRPC, over the rate":      {[]string{"--config", file, "--route", "limited", "grpc /orders.Orders/Create", "--rate-limit", "reached"}, nil, "refused with rate_limited: the caller gets RESOURCE_EXHAUSTED, RetryInfo: 3 s"},
		"it depends on the jitter": {[]string{"GET /", "--status", "503", "--elapsed", "4.95s"}, nil, "depends on the jitter: with the shortest wait retry after 0s (jitter), with the longest (as below) give_up: the call ends with deadline_too_close"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := explained(t, tc.args...)
			if code != cli.ExitOK {
				t.Fatalf("got exit code %d, want 0: %s", code, stderr)
			}
			for _, s := range tc.says {
				if !strings.Contains(stdout, s) {
					t.Errorf("want %q in\n%s", s, stdout)
				}
			}
			if got, _, _ := strings.Cut(stdout, "\n"); got != tc.first {
				t.Errorf("it begins with %q, want %q:\n%s", got, tc.first, stdout)
			}
			code, stdout, stderr = explained(t, append(tc.args, "--json")...)
			var e explanation
			if err := json.Unmarshal([]byte(stdout), &e); code != cli.ExitOK || err != nil || len(e.Verdicts) == 0 {
				t.Errorf("as JSON: got exit code %d, error %v, stderr %s, stdout\n%s\nwant 0 and verdicts", code, err, stderr, stdout)
			}
		})
	}
}

// The whole text of a refusal, and its JSON.
func TestExplainRefusal(t *testing.T) {
	file := files.Temp(t, "rebound.yaml", `routes: [{name: process, match: GET /process, upstream: "http://upstream:5000"}]
policies: {default: {rateLimit: {perSecond: 100, burst: 20}}}
`)
	var got strings.Builder
	for _, args := range [][]string{
		{"GET /process", "--rate-limit", "reached"}, {"GET /process", "--concurrency", "reached"}, {"GET /process", "--concurrency", "reached", "--json"},
	} {
		code, stdout, stderr := explained(t, append(args, "--config", file)...)
		if code != cli.ExitOK || stderr != "" {
			t.Errorf("%v: got exit code %d, stderr %q, want 0 and none", args, code, stderr)
		}
		got.WriteString("$ lab explain '" + args[0] + "' " + strings.Join(args[1:], " ") + "\n" + stdout + "\n")
	}
	golden.File(t, filepath.Join("testdata", "refusal.txt"), got.String())
}

const unlimited = `routes: [{name: a, match: /, upstream: "http://upstream:5000"}]
policies: {default: {concurrency: {max: -1}}}`

func TestExplainRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no request":          {[]string{"--status", "503"}, "expected one request such as 'GET /process', got 0"},
		"two requests":        {[]string{"GET /a", "GET /b", "--status", "503"}, "got 2"},
		"no path":             {[]string{"GET", "--status", "503"}, `"GET": expected a request`},
		"nothing happened":    {[]string{"GET /"}, "expected either --status CODE or --error HOW"},
		"both happened":       {[]string{"GET /", "--status", "503", "--error", "dial"}, "expected either"},
		"no such status":      {[]string{"GET /", "--status", "700"}, "--status: must be from 200 to 599, got 700"},
		"no such code":        {[]string{"grpc /a/b", "--status", "AWAY"}, `--status: must be a gRPC status such as UNAVAILABLE or 14, got "AWAY"`},
		"no such code number": {[]string{"grpc /a/b", "--status", "17"}, `such as UNAVAILABLE or 14, got "17"`},
		"a code of gRPC":      {[]string{"GET /", "--status", "UNAVAILABLE"}, `--status: must be a number such as 503, got "UNAVAILABLE"; for gRPC begin the request with grpc`},
		"no gRPC method":      {[]string{"grpc /a", "--status", "14"}, `"grpc /a": expected a gRPC call such as 'grpc /orders.Orders/Create'`},
		"idempotent HTTP":     {[]string{"GET /", "--status", "503", "--idempotent"}, "--idempotent and --committed are about gRPC"},
		"committed to what":   {[]string{"grpc /a/b", "--error", "dial", "--committed"}, "--committed: requires --status CODE"},
		"no such error":       {[]string{"GET /", "--error", "bang"}, `--error: must be dial, reset or timeout, got "bang"`},
		"no such state":       {[]string{"GET /", "--status", "503", "--breaker", "ajar"}, `--breaker: must be closed or open, got "ajar"`},
		"attempt zero":        {[]string{"GET /", "--status", "503", "--attempt", "0"}, "--attempt: must be from 1 to 100, got 0"},
		"no state of a limit": {[]string{"GET /", "--concurrency", "full"}, `--concurrency: must be free or reached, got "full"`},
		"no state of a rate":  {[]string{"GET /", "--rate-limit", "full"}, `--rate-limit: must be free or reached, got "full"`},
		"no refusal":          {[]string{"GET /", "--concurrency", "free"}, "or a refusal: --rate-limit reached, --breaker open or --concurrency reached"},
		"a rate for a retry":  {[]string{"GET /", "--status", "503", "--rate-limit", "reached"}, "--rate-limit: a retry needs no token"},
		"no rate limit":       {[]string{"GET /", "--rate-limit", "reached"}, "--rate-limit: policy default has no rateLimit"},
		"no limit":            {[]string{"--config", files.Temp(t, "rebound.yaml", unlimited), "GET /", "--concurrency", "reached"}, "policy default has no limit, concurrency.max is -1"},
		"a body":              {[]string{"POST /", "--body", "1KiB", "--concurrency", "reached"}, "an adaptive limit leaves out requests with a body"},
		"a header without":    {[]string{"GET /", "--status", "503", "--header", "Retry-After"}, "expected a header such as 'Retry-After: 7'"},
		"a route without":     {[]string{"GET /", "--status", "503", "--route", "r"}, "--route: requires --config FILE"},
		"a file that is away": {[]string{"GET /", "--status", "503", "--config", "away.yaml"}, "away.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := explained(t, tc.args...)
			if code != cli.ExitUsage || stdout != "" || !strings.Contains(stderr, tc.want) {
				t.Errorf("exit code %d, %q, %q, want 2 and %q", code, stdout, stderr, tc.want)
			}
		})
	}
}
