package program

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/serve"
	"github.com/rebound-dev/rebound/pkg/telemetry"
	"github.com/rebound-dev/rebound/pkg/version"
)

// Client is the gateway with its traces, metrics and log, as client and demo
// run it.
type Client struct {
	Data  http.Handler
	Admin http.Handler

	gateway   *gateway.Gateway
	telemetry *telemetry.Telemetry
	metrics   *telemetry.Metrics
}

// NewClient puts a gateway together. The error is about the environment or the
// configuration.
func (p Program) NewClient(ctx context.Context, cfg gateway.Config, ready *serve.Readiness, logger *slog.Logger) (*Client, error) {
	tel, err := telemetry.Start(ctx, telemetry.Options{Service: "client", Version: version.String(), LookupEnv: p.LookupEnv, Logger: logger})
	if err != nil {
		return nil, err
	}
	var gw atomic.Pointer[gateway.Gateway] // the metrics are made first, and ask for it when they are scraped
	metrics, err := telemetry.NewMetrics(telemetry.Sources{
		Upstreams:    func() []telemetry.Upstream { return upstreams(gw.Load()) },
		ReplayMemory: func() int64 { return replayMemory(gw.Load()) },
	})
	if err != nil {
		return nil, err
	}
	log := gateway.LogObserver(logger)
	options := gateway.Options{
		Logger: logger,
		Observer: resilience.Observer{
			Attempt:    log.Attempt,
			Transition: func(t resilience.Transition) { log.Transition(t); metrics.Transition(t) },
		},
		OnCall: func(ctx context.Context, c gateway.Call) {
			metrics.Call(ctx, telemetry.Call{
				Route: c.Route, Policy: c.Policy, Pattern: c.Pattern, Upstream: c.Upstream, Scheme: c.Scheme, Method: c.Method,
				Status: c.Status, Duration: c.Duration, Report: c.Report,
			})
		},
	}
	if tel.Enabled() {
		options.TracerProvider, options.Propagator = tel.Provider(), tel.Propagator()
	}
	g, err := gateway.New(cfg, options)
	if err != nil {
		return nil, err
	}
	gw.Store(g)
	return &Client{
		Data: tel.Handler(g), Admin: g.Admin(ready.Livez(), ready.Readyz(), metrics.Handler()),
		gateway: g, telemetry: tel, metrics: metrics,
	}, nil
}

func upstreams(g *gateway.Gateway) []telemetry.Upstream {
	if g == nil {
		return nil
	}
	states := g.Breakers()
	list := make([]telemetry.Upstream, len(states))
	for i, s := range states {
		list[i] = telemetry.Upstream{Name: s.Upstream, Policy: s.Policy, State: s.Breaker.State, BudgetTokens: s.BudgetTokens}
	}
	return list
}

func replayMemory(g *gateway.Gateway) int64 {
	if g == nil {
		return 0
	}
	return g.ReplayMemory()
}

// Reload is [gateway.Gateway.Reload]; how it went is in the log and the metrics.
func (c *Client) Reload(load func() (gateway.Config, error)) {
	c.metrics.Reload(c.gateway.Reload(load) == nil)
}

// LongestTimeout is how long a call may take: that of the policy with the most.
func (c *Client) LongestTimeout() time.Duration {
	var longest time.Duration
	for _, p := range c.gateway.Config().Policies {
		longest = max(longest, p.Timeout)
	}
	return longest
}

// Flush sends what is left of the traces; the last thing before the end.
func (c *Client) Flush(ctx context.Context) error {
	c.gateway.Close()
	return errors.Join(c.telemetry.Flush(ctx), c.metrics.Close(ctx))
}
