package faithful_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

const (
	get  = http.MethodGet
	post = http.MethodPost
	ms   = time.Millisecond
)

// failure is what goes wrong in a cell.
type failure struct {
	name     string
	spec     faults.Spec
	dead, of int
	sick     int
	calls    int // 0 = as many as are quick
}

func status(code int, rate float64) failure {
	return failure{name: fmt.Sprintf("%d, %g %%", code, 100*rate), spec: faults.Spec{ErrorRate: rate, Statuses: []int{code}}}
}

// asking is an error status that asks to wait a second.
func asking(code int, rate float64) failure {
	f := status(code, rate)
	f.name += ", Retry-After: 1"
	f.spec.RetryAfter, f.calls = "1s", 20
	return f
}

func resets(rate float64) failure {
	return failure{name: fmt.Sprintf("reset, %g %%", 100*rate), spec: faults.Spec{ResetRate: rate}}
}

func hangs(rate float64) failure {
	return failure{name: fmt.Sprintf("no answer, %g %%", 100*rate), spec: faults.Spec{HangRate: rate}, calls: 40}
}

// refuses is a number of servers that refuse connections.
func refuses(dead, of int) failure {
	return failure{name: fmt.Sprintf("%d of %d refuse", dead, of), dead: dead, of: of}
}

// answers503 is a number of servers that always answer 503.
func answers503(sick, of int) failure {
	return failure{name: fmt.Sprintf("%d of %d answer 503", sick, of), sick: sick, of: of}
}

// quick is how many calls a cell makes that need no time.
const quick = 300

// cells returns a cell for each failure. change sets the policy.
func cells(policy, method string, servers int, change func(*cell), failures ...failure) []cell {
	var all []cell
	for _, f := range failures {
		c := cell{policy: policy, method: method, failure: f.name, faults: f.spec, servers: servers, dead: f.dead, sick: f.sick, calls: quick}
		if f.of > 0 {
			c.servers = f.of
		}
		if f.calls > 0 {
			c.calls = f.calls
		}
		change(&c)
		all = append(all, c)
	}
	return all
}

func lines(all ...string) func(*cell) { return func(c *cell) { c.lines = all } }

func join(all ...[]cell) []cell {
	var joined []cell
	for _, some := range all {
		joined = append(joined, some...)
	}
	return joined
}

func grpcCells() []cell {
	retry := func(attempts int, codes string) string {
		return fmt.Sprintf(`"retryPolicy": {"maxAttempts": %d, "initialBackoff": "0.002s", "maxBackoff": "0.01s", "backoffMultiplier": 2, "retryableStatusCodes": [%s]}`, attempts, codes)
	}
	of := func(server string, text ...string) func(*cell) {
		return func(c *cell) { c.grpc, c.lines, c.server = true, text, server }
	}
	const throttling = `"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}`
	return join(
		cells("4 attempts on UNAVAILABLE", post, 1, of("", retry(4, `"UNAVAILABLE"`)),
			status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(502, .3), status(429, .3), status(500, .3), resets(.3), refuses(1, 1)),
		cells("9 attempts on UNAVAILABLE", post, 1, of("", retry(9, `"UNAVAILABLE"`)), status(503, .6)),
		cells("3 attempts on UNKNOWN", post, 1, of("", retry(3, `"UNKNOWN"`)), status(500, .6), status(503, .6)),
		cells("4 attempts, throttled", post, 1, of(throttling, retry(4, `"UNAVAILABLE"`)), status(503, .1), status(503, .3), status(503, .6)),
		cells("4 attempts, timeout 300ms", post, 1, of("", retry(4, `"UNAVAILABLE"`)+",", `"timeout": "0.3s"`), hangs(.3), asking(503, .3)),
		cells("no retryPolicy", post, 1, of("", `"timeout": "1s"`), status(503, .3), resets(.3)),
	)
}

func failsafeCells() []cell {
	of := func(l library) func(*cell) { return func(c *cell) { c.library = l } }
	three := library{retries: 3, wait: 2 * ms, most: 10 * ms}
	return join(
		cells("3 retries", get, 1, of(three), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(429, .3), resets(.3), resets(.6), refuses(1, 1)),
		cells("3 retries", post, 1, of(three), status(503, .3), resets(.3)),
		cells("2 retries, try timeout 150ms", get, 1, of(library{retries: 2, tryTimeout: 150 * ms}), hangs(.3)),
		cells("2 retries, try timeout 150ms", post, 1, of(library{retries: 2, tryTimeout: 150 * ms}), hangs(.3)),
		cells("3 retries, timeout 300ms", get, 1, of(library{retries: 3, timeout: 300 * ms}), asking(503, .3)),
		cells("2 retries, breaker 5 in a row", get, 1, func(c *cell) {
			c.library, c.every = library{retries: 2, openAfter: 5, openFor: 300 * ms}, 10*ms
		}, status(503, .3), status(503, .6)),
	)
}

func retryableCells() []cell {
	of := func(l library) func(*cell) { return func(c *cell) { c.library = l } }
	three := library{retries: 3, wait: 2 * ms, most: 10 * ms}
	return join(
		cells("3 retries", get, 1, of(three), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(429, .3), status(502, .6), resets(.3), resets(.6), refuses(1, 1)),
		cells("3 retries", post, 1, of(three), status(503, .3), status(500, .6), resets(.3)),
		cells("2 retries, try timeout 150ms", get, 1, of(library{retries: 2, wait: ms, most: ms, tryTimeout: 150 * ms}), hangs(.3)),
		cells("3 retries, timeout 300ms", get, 1, of(library{retries: 3, wait: ms, most: ms, timeout: 300 * ms}), asking(503, .3)),
	)
}

func caddyCells() []cell {
	return join(
		cells("lb_retries 2", get, 2, lines("lb_retries 2"), status(503, .3), resets(.3), resets(.6), hangs(.3), refuses(1, 2), refuses(2, 2)),
		cells("lb_retries 2", post, 2, lines("lb_retries 2"), resets(.3), hangs(.3), refuses(1, 2)),
		cells("lb_try_duration 300ms, interval 50ms", get, 2, lines("lb_try_duration 300ms", "lb_try_interval 50ms"), failure{name: "2 of 2 refuse", dead: 2, of: 2, calls: 10}, resets(.3)),
		cells("lb_try_duration 1s, lb_retries 1", get, 2, lines("lb_try_duration 1s", "lb_retries 1", "lb_try_interval 5ms"), resets(.6), refuses(1, 2)),
		cells("no retries", get, 2, lines(), resets(.3), refuses(1, 2)),
		cells("lb_retries 3, round_robin", get, 3, lines("lb_retries 3", "lb_policy round_robin"), refuses(1, 3), refuses(2, 3)),
		cells("lb_retries 1, fail_duration 400ms", get, 2, func(c *cell) {
			c.lines, c.every, c.calls = []string{"lb_retries 1", "fail_duration 400ms", "unhealthy_status 503"}, 10*ms, 300
		}, refuses(1, 2), status(503, .1), resets(.3)),
	)
}

func traefikCells() []cell {
	retry := func(text string) func(*cell) { return lines("retry: {" + text + "}") }
	return join(
		cells("attempts 3", get, 2, retry("attempts: 3"), status(503, .3), resets(.3), hangs(.3), refuses(1, 2), refuses(2, 2)),
		cells("attempts 3", post, 2, retry("attempts: 3"), status(503, .3), resets(.3), refuses(1, 2)),
		cells("attempts 4, initialInterval 5ms", get, 3, retry("attempts: 4, initialInterval: 5ms"), refuses(1, 3), refuses(2, 3), refuses(3, 3)),
		cells("attempts 1", get, 2, retry("attempts: 1"), refuses(1, 2)),
	)
}

func haproxyCells() []cell {
	all := "retry-on all-retryable-errors"
	return join(
		cells("defaults", get, 2, lines(), status(503, .3), resets(.3), failure{name: "1 of 2 refuse", dead: 1, of: 2, calls: 40}, failure{name: "2 of 2 refuse", dead: 2, of: 2, calls: 20}),
		cells("redispatch", get, 2, lines("option redispatch"), failure{name: "1 of 2 refuse", dead: 1, of: 2, calls: 40}),
		cells("redispatch 1", get, 3, lines("option redispatch 1"), refuses(1, 3), refuses(2, 3)),
		cells("retry-on all-retryable-errors", get, 2, lines(all), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(502, .3), status(429, .3), resets(.3), hangs(.3)),
		cells("retry-on all-retryable-errors", post, 2, lines(all), status(503, .3), resets(.3)),
		cells("retry-on 503", get, 2, lines("retry-on 503"), answers503(1, 2), answers503(1, 3)),
		cells("retry-on 503, redispatch", get, 2, lines("retry-on 503", "option redispatch"), answers503(1, 2), answers503(1, 3)),
		cells("retry-on 503, leastconn, redispatch", get, 2, lines("retry-on 503", "option redispatch", "balance leastconn"), answers503(1, 2), answers503(1, 3)),
		cells("leastconn, redispatch", get, 2, lines("option redispatch", "balance leastconn"), failure{name: "1 of 2 refuse", dead: 1, of: 2, calls: 40}),
		cells("source", get, 2, lines("retry-on 503", "balance source"), answers503(1, 2)),
		cells("retry-on 503, retries 1", get, 2, lines("retry-on 503", "retries 1"), status(503, .6), resets(.3)),
		cells("retry-on all-retryable-errors, redispatch 1", get, 2, lines(all, "option redispatch 1"), refuses(1, 2), status(503, .3)),
		cells("disable-l7-retry", post, 2, lines(all, "http-request disable-l7-retry if METH_POST"), status(503, .3)),
		cells("disable-l7-retry", get, 2, lines(all, "http-request disable-l7-retry if METH_POST"), status(503, .3)),
	)
}

func nginxCells() []cell {
	of := func(server string, text ...string) func(*cell) {
		return func(c *cell) { c.lines, c.server = text, server }
	}
	const on = "proxy_next_upstream error timeout http_500 http_502 http_503 http_429"
	return join(
		cells("every status, max_fails=0", get, 3, of("max_fails=0", on), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(502, .3), status(429, .3), resets(.3), hangs(.3), refuses(1, 3), refuses(2, 3), refuses(3, 3)),
		cells("every status, max_fails=0", post, 3, of("max_fails=0", on), status(503, .3), resets(.3), refuses(1, 3)),
		cells("non_idempotent, max_fails=0", post, 3, of("max_fails=0", on+" non_idempotent"), status(503, .3), resets(.3)),
		cells("sick, max_fails=0", get, 3, of("max_fails=0", on), answers503(1, 3), answers503(2, 3)),
		cells("sick, max_fails=3 fail_timeout=1s", get, 3, func(c *cell) {
			c.lines, c.server, c.every, c.calls = []string{on}, "max_fails=3 fail_timeout=1s", 15*ms, 320
		}, answers503(1, 3), refuses(1, 3), status(503, .1), status(503, .3), resets(.2)),
		cells("tries 2, max_fails=0", get, 3, of("max_fails=0", on, "proxy_next_upstream_tries 2"), status(503, .3)),
		cells("defaults of proxy_next_upstream", get, 3, of("max_fails=0"), status(503, .3), resets(.3)),
		cells("off, max_fails=0", get, 3, of("max_fails=0", "proxy_next_upstream off"), resets(.3), refuses(1, 3)),
		cells("one server", get, 1, of("", on), status(503, .3), resets(.3)),
		cells("timeout 100ms, max_fails=0", get, 3, of("max_fails=0", on, "proxy_next_upstream_timeout 100ms"), hangs(.3)),
		cells("max_fails=2 fail_timeout=2s", get, 3, func(c *cell) {
			c.lines, c.server, c.every, c.calls = []string{on}, "max_fails=2 fail_timeout=2s", 25*ms, 320
		}, refuses(1, 3), status(503, .1), status(503, .3), resets(.6)),
	)
}
