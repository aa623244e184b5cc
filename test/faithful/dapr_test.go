package faithful_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	dapr "github.com/dapr/dapr/pkg/apis/resiliency/v1alpha1"
	"github.com/dapr/dapr/pkg/resiliency"
	"github.com/dapr/kit/logger"
	"sigs.k8s.io/yaml"

	"github.com/rebound-dev/rebound/internal/foreign"
)

func daprPolicies() thing {
	return thing{
		name: "Dapr", version: moduleVersion("github.com/dapr/dapr"), cells: daprCells(),
		start: func(t *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			text := render(t, "dapr.yaml", setup{Lines: c.lines, Server: c.server})
			var object dapr.Resiliency
			if err := yaml.UnmarshalStrict(text, &object); err != nil {
				t.Fatal(err)
			}
			log := logger.NewLogger("peer")
			log.SetOutputLevel(logger.FatalLevel)
			policies := resiliency.New(log)
			if err := policies.DecodeConfiguration(&object); err != nil {
				t.Fatal(err)
			}
			// Dapr sends calls to another Dapr over gRPC, which repeats nothing by itself. net/http
			// would repeat a GET on a connection that it has kept.
			d := &dials{next: &http.Transport{DisableKeepAlives: true}}
			return imported(t, foreign.Dapr, "dapr.yaml", text), peer{
				call: func(method string) bool {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					run := resiliency.NewRunner[struct{}](ctx, policies.EndpointPolicy("peer", "peer:orders"))
					_, err := run(func(ctx context.Context) (struct{}, error) {
						return struct{}{}, daprAttempt(ctx, d, method, "http://"+u.servers[0])
					})
					return err == nil
				},
				end: func(int) int { return int(d.failed.Load()) },
			}
		},
	}
}

// daprAttempt makes one attempt. As with Dapr's callers, a status from 400 on is an error.
func daprAttempt(ctx context.Context, by http.RoundTripper, method, url string) error {
	path, body := "/process", ""
	if method == http.MethodPost {
		path, body = "/orders", `{"order": ""}`
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := by.RoundTrip(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return errors.New(resp.Status)
	}
	return nil
}

func daprCells() []cell {
	of := func(server string, text ...string) func(*cell) {
		return func(c *cell) { c.lines, c.server = text, server }
	}
	retries := func(text string) string { return "retries: {r: {" + text + "}}" }
	breaker := func(text string) func(*cell) {
		return func(c *cell) {
			c.lines, c.server = []string{retries("duration: 1ms, maxRetries: 2"), "circuitBreakers: {b: {" + text + "}}"}, "{retry: r, circuitBreaker: b}"
			c.every = 10 * ms
		}
	}
	three, tried := of("{retry: r}", retries("duration: 2ms, maxRetries: 3")), of("{timeout: t, retry: r}", "timeouts: {t: 250ms}", retries("duration: \"1\", maxRetries: 2"))
	often := asking(503, .3)
	often.calls = 10
	return join(
		cells("maxRetries 3", get, 1, three, status(503, .1), status(503, .3), status(503, .6), status(503, 1), status(500, .3), status(429, .3), status(404, .3), resets(.3), resets(.6), refuses(1, 1)),
		cells("maxRetries 3", post, 1, three, status(503, .3), resets(.3)),
		cells("no limit of retries", get, 1, of("{retry: r}", retries("duration: 1ms")), status(503, .6)),
		cells("exponential, maxRetries 2", get, 1, of("{retry: r}", retries("policy: exponential, maxInterval: 10ms, maxRetries: 2")), often),
		cells("maxRetries 2, timeout 250ms", get, 1, tried, hangs(.3)),
		cells("maxRetries 2, timeout 250ms", post, 1, tried, hangs(.3)),
		cells("maxRetries 2, breaker", get, 1, breaker("timeout: 305ms"), status(503, .3), status(503, .6), status(503, 1), refuses(1, 1)),
		cells("maxRetries 2, breaker at 3 in a row", get, 1, breaker("timeout: 305ms, trip: consecutiveFailures >= 3"), status(503, .3), status(503, .6)),
		cells("maxRetries 2, breaker at 5 in a second", get, 1, breaker("timeout: 305ms, interval: 1s, maxRequests: 2, trip: totalFailures > 5"), status(503, .1), status(503, .3)),
	)
}
