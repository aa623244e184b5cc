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
	beside   int    // calls at a time
	why      string // the model is known to differ
	calls    int    // 0 = as many as are quick
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
	return failure{name: fmt.Sprintf("no answer, %g %%", 100*rate), spec: faults.Spec{HangRate: rate}, calls: 30}
}

// refuses is a number of servers that refuse connections.
func refuses(dead, of int) failure {
	return failure{name: fmt.Sprintf("%d of %d refuse", dead, of), dead: dead, of: of}
}

// answers503 is a number of servers that always answer 503.
func answers503(sick, of int) failure {
	return failure{name: fmt.Sprintf("%d of %d answer 503", sick, of), sick: sick, of: of}
}

// timeout returns the timeout of an attempt. It is long where nothing hangs, so that a busy machine
// does not add failures.
func (c cell) timeout() string {
	if c.faults.HangRate > 0 {
		return "250ms"
	}
	return "3s"
}

// explained is a failure in which the model is known to differ.
func explained(f failure, why string) failure {
	f.why = why
	return f
}

// crowd is a number of calls at a time that take 100ms each. Nothing fails.
func crowd(n int) failure {
	return failure{
		name: fmt.Sprintf("%d calls at a time", n), beside: n, calls: 20 * n,
		spec: faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: 100 * ms}},
	}
}

// quick is how many calls a cell makes that need no time.
const quick = 300

// cells returns a cell for each failure. change sets the policy.
func cells(policy, method string, servers int, change func(*cell), failures ...failure) []cell {
	var all []cell
	for _, f := range failures {
		c := cell{policy: policy, method: method, failure: f.name, faults: f.spec, servers: servers, dead: f.dead, sick: f.sick, calls: quick, beside: f.beside, why: f.why}
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
		cells("2 retries, try timeout 250ms", get, 1, of(library{retries: 2, tryTimeout: 250 * ms}), hangs(.3)),
		cells("2 retries, try timeout 250ms", post, 1, of(library{retries: 2, tryTimeout: 250 * ms}), hangs(.3)),
		cells("3 retries, timeout 300ms", get, 1, of(library{retries: 3, timeout: 300 * ms}), asking(503, .3)),
		cells("2 retries, breaker 5 in a row", get, 1, func(c *cell) {
			c.library, c.every = library{retries: 2, openAfter: 5, openFor: 305 * ms}, 10*ms
		}, status(503, .3), status(503, .6)),
	)
}

func retryableCells() []cell {
	of := func(l library) func(*cell) { return func(c *cell) { c.library = l } }
	three := library{retries: 3, wait: 2 * ms, most: 10 * ms}
	return join(
		cells("3 retries", get, 1, of(three), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(429, .3), status(502, .6), resets(.3), resets(.6), refuses(1, 1)),
		cells("3 retries", post, 1, of(three), status(503, .3), status(500, .6), resets(.3)),
		cells("2 retries, try timeout 250ms", get, 1, of(library{retries: 2, wait: ms, most: ms, tryTimeout: 250 * ms}), hangs(.3)),
		cells("3 retries, timeout 300ms", get, 1, of(library{retries: 3, wait: ms, most: ms, timeout: 300 * ms}), asking(503, .3)),
	)
}

func caddyCells() []cell {
	// Caddy chooses at random, so that many calls are needed.
	refuse := func(dead, of int) failure {
		f := refuses(dead, of)
		f.calls = 3000
		return f
	}
	passive := func(text ...string) func(*cell) {
		return func(c *cell) {
			c.lines, c.every, c.calls = append(text, "lb_retries 1", "lb_policy round_robin", "unhealthy_status 503"), 10*ms, 600
		}
	}
	return join(
		cells("lb_retries 2", get, 2, lines("lb_retries 2"), status(503, .3), hangs(.3), refuse(1, 2), refuses(2, 2)),
		cells("lb_retries 2", get, 1, lines("lb_retries 2"), resets(.1), resets(.3), resets(.6)),
		cells("lb_retries 2", post, 2, lines("lb_retries 2"), resets(.3), hangs(.3), refuse(1, 2)),
		cells("lb_try_duration 600ms, lb_try_interval 130ms", get, 2, lines("lb_try_duration 600ms", "lb_try_interval 130ms"),
			failure{name: "2 of 2 refuse", dead: 2, of: 2, calls: 5}, resets(.3)),
		cells("lb_try_duration 1s, lb_retries 1", get, 1, lines("lb_try_duration 1s", "lb_retries 1", "lb_try_interval 1ms"), resets(.6)),
		cells("lb_try_duration 1s, lb_retries 1", get, 2, lines("lb_try_duration 1s", "lb_retries 1", "lb_try_interval 1ms"), refuse(1, 2)),
		cells("no retries", get, 1, lines(), resets(.3)),
		cells("no retries", get, 2, lines(), refuse(1, 2)),
		cells("lb_retries 3, round_robin", get, 3, lines("lb_retries 3", "lb_policy round_robin"), refuses(1, 3), refuses(2, 3)),
		cells("unhealthy_request_count 1", get, 3, lines("fail_duration 1s", "unhealthy_request_count 1"), crowd(2), crowd(4)),
		cells("lb_retries 1, fail_duration 105ms", get, 2, passive("fail_duration 105ms"), refuses(1, 2), answers503(1, 2)),
		cells("lb_retries 1, fail_duration 65ms", get, 3, passive("fail_duration 65ms"), status(503, .1)),
		cells("lb_retries 1, fail_duration 405ms, max_fails 4", get, 3, passive("fail_duration 405ms", "max_fails 4"), status(503, .1), status(503, .3)),
	)
}

const traefikTies = "Traefik's weighted round robin takes three servers of the same weight in the order ACBCBABAC, " +
	"over and over: with A and B out, a call may meet them four times. The model takes them in turn."

func traefikCells() []cell {
	retry := func(text string) func(*cell) { return lines("retry: {" + text + "}") }
	return join(
		cells("attempts 3", get, 2, retry("attempts: 3"), status(503, .3), hangs(.3), refuses(1, 2), refuses(2, 2)),
		cells("attempts 3", get, 1, retry("attempts: 3"), resets(.1), resets(.3), resets(.6)),
		cells("attempts 3", post, 2, retry("attempts: 3"), status(503, .3), resets(.3), refuses(1, 2)),
		cells("attempts 4, initialInterval 5ms", get, 3, retry("attempts: 4, initialInterval: 5ms"), refuses(1, 3), explained(refuses(2, 3), traefikTies), refuses(3, 3)),
		cells("attempts 1", get, 1, retry("attempts: 1"), resets(.6)),
		cells("attempts 1", get, 2, retry("attempts: 1"), refuses(1, 2)),
	)
}

func haproxyCells() []cell {
	const all = "retry-on all-retryable-errors"
	few := func(dead, of, calls int) failure { // each retry waits for timeout connect
		f := refuses(dead, of)
		f.calls = calls
		return f
	}
	return join(
		cells("defaults", get, 2, lines(), status(503, .3), resets(.3), few(1, 2, 20), few(2, 2, 10)),
		cells("option redispatch", get, 2, lines("option redispatch"), refuses(1, 2)),
		cells("option redispatch 1", get, 3, lines("option redispatch 1"), refuses(1, 3), refuses(2, 3)),
		cells("all-retryable-errors", get, 2, lines(all), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(502, .3), status(429, .3), resets(.3), hangs(.3)),
		cells("all-retryable-errors", post, 2, lines(all), status(503, .3), resets(.3)),
		cells("retry-on 503", get, 2, lines("retry-on 503"), answers503(1, 2), answers503(1, 3)),
		cells("retry-on 503, redispatch", get, 2, lines("retry-on 503", "option redispatch"), answers503(1, 2), answers503(1, 3)),
		cells("retry-on 503, retries 1", get, 2, lines("retry-on 503", "retries 1"), status(503, .6), resets(.3)),
		cells("all-retryable-errors, redispatch 1", get, 2, lines(all, "option redispatch 1"), refuses(1, 2), status(503, .3)),
		cells("maxconn 1, timeout queue 1s", get, 3, func(c *cell) { c.lines, c.server = []string{"timeout queue 1s"}, "maxconn 1" }, crowd(3), crowd(5)),
		cells("maxconn 1, timeout queue 10ms", get, 3, func(c *cell) { c.lines, c.server = []string{"timeout queue 10ms"}, "maxconn 1" }, crowd(3), crowd(5)),
		cells("all-retryable-errors, disable-l7-retry", get, 2, lines(all, "http-request disable-l7-retry"), status(503, .3)),
		cells("all-retryable-errors, disable-l7-retry if METH_POST", post, 2, lines(all, "http-request disable-l7-retry if METH_POST"), status(503, .3)),
	)
}

func nginxCells() []cell {
	of := func(server string, text ...string) func(*cell) {
		return func(c *cell) { c.lines, c.server = text, server }
	}
	const on = "proxy_next_upstream error timeout http_500 http_502 http_503 http_429"
	passive := func(server string, every time.Duration, text ...string) func(*cell) {
		return func(c *cell) { c.lines, c.server, c.every, c.calls = text, server, every, 300 }
	}
	return join(
		cells("on every status, max_fails=0", get, 3, of("max_fails=0", on), status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(502, .3), status(429, .3), resets(.3), hangs(.3),
			refuses(1, 3), refuses(2, 3), refuses(3, 3), answers503(1, 3)),
		cells("on every status, max_fails=0", post, 3, of("max_fails=0", on), status(503, .3), resets(.3), refuses(1, 3)),
		cells("non_idempotent, max_fails=0", post, 3, of("max_fails=0", on+" non_idempotent"), status(503, .3), resets(.3)),
		cells("tries 2, max_fails=0", get, 3, of("max_fails=0", on, "proxy_next_upstream_tries 2"), status(503, .3)),
		cells("error timeout, max_fails=0", get, 3, of("max_fails=0"), status(503, .3), resets(.3)),
		cells("off, max_fails=0", get, 3, of("max_fails=0", "proxy_next_upstream off"), resets(.3), refuses(1, 3)),
		cells("one server", get, 1, of("", on), status(503, .3), resets(.3)),
		cells("timeout 100ms, max_fails=0", get, 3, of("max_fails=0", on, "proxy_next_upstream_timeout 100ms"), hangs(.3)),
		cells("max_conns=1", get, 3, of("max_conns=1", on), crowd(3), crowd(5)),
		cells("max_fails=2 fail_timeout=2s", get, 3, passive("max_fails=2 fail_timeout=2s", 25*ms, on), refuses(1, 3), answers503(1, 3), status(503, .3)),
		cells("max_fails=3 fail_timeout=1s", get, 3, passive("max_fails=3 fail_timeout=1s", 20*ms, on), status(503, .1), resets(.1)),
		cells("max_fails=3 fail_timeout=1s", post, 3, passive("max_fails=3 fail_timeout=1s", 20*ms, on), status(503, .3)),
	)
}
