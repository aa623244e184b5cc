// Package app is the composition: client and flaky-server with their traces, metrics, log and
// live page, as the commands run them.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/siteguard"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/observe"
)

// Client is the gateway with its traces, metrics and log, as client and demo
// run it.
type Client struct {
	Data  http.Handler
	Admin http.Handler

	gateway   *gateway.Gateway
	telemetry *telemetry.Telemetry
	metrics   *telemetry.Metrics
	stopLive  func()
}

// LivePage is what the client's live page offers besides what it sees.
type LivePage struct {
	Faults  string          // URL of flaky-server's admin port, whose faults may be changed then; empty for none
	Traces  string          // where the trace of a call is found, as [page.Options] has it; empty for none
	Hosts   siteguard.Hosts // names that the admin port may be asked under, besides those that cannot be another site's
	Listen  string          // address of the data port, to tell a visitor what to call; empty for none
	Traffic page.Traffic    // a generator that may be steered; nil for none
}

// Check is what NewClient would refuse.
func (p LivePage) Check() error {
	_, err := page.New(live.New(), p.options())
	return err
}

func (p LivePage) options() page.Options {
	return page.Options{Faults: p.Faults, Traces: p.Traces, Traffic: p.Traffic, Hosts: p.Hosts}
}

// NewClient puts a gateway together; what it starts ends with [Client.Flush] or
// [Client.Close]. The error is about the environment, the configuration or the page.
func NewClient(ctx context.Context, p cli.Program, cfg gateway.Config, ready *serve.Readiness, logger *slog.Logger, livePage LivePage) (*Client, error) {
	tel, err := telemetry.Start(ctx, telemetry.Options{Service: "client", Version: version.String(), LookupEnv: p.LookupEnv, Environ: p.Environ, Logger: logger})
	if err != nil {
		return nil, err
	}
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		return nil, err
	}
	metrics.Reload(true) // the configuration that it begins with
	recent := live.New()
	shown := livePage.options()
	shown.Example = example(livePage.Listen, cfg.Routes)
	web, err := page.New(recent, shown)
	if err != nil {
		return nil, err
	}
	options := gateway.Options{
		Logger:    logger,
		Observers: []observe.Observer{recent, metrics, gateway.LogObserver(logger)},
	}
	if tel.Enabled() {
		options.TracerProvider, options.Propagator = tel.Provider(), tel.Propagator()
	}
	g, err := gateway.New(cfg, options)
	if err != nil {
		return nil, err
	}
	recent.Attach(g.Upstreams)
	if err := metrics.Attach(telemetry.Sources{Upstreams: g.Upstreams, ReplayMemory: g.ReplayMemory}); err != nil {
		return nil, err
	}
	// What it shows goes on while the program drains, after ctx has ended.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		web.Run(running)
	}()
	return &Client{
		Data: tel.Handler(g), Admin: g.Admin(ready.Livez(), ready.Readyz(), metrics.Handler(), web.Handler(), livePage.Hosts...),
		gateway: g, telemetry: tel, metrics: metrics, stopLive: func() { stop(); <-ended },
	}, nil
}

// example is a call that a visitor of the page can make, if there is one that
// needs no more than a URL.
func example(listen string, routes []gateway.Route) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost" // where it is for who runs it, or has its port forwarded
	}
	for _, r := range routes {
		method, path, ok := strings.Cut(r.Match, " ")
		if !ok {
			method, path = http.MethodGet, r.Match
		}
		if method == http.MethodGet && strings.HasPrefix(path, "/") && !strings.Contains(path, "{") {
			return "http://" + net.JoinHostPort(host, port) + path
		}
	}
	return ""
}

// Reload is [gateway.Gateway.Reload]; how it went is in the log and the metrics.
func (c *Client) Reload(load func() (gateway.Config, error)) {
	c.metrics.Reload(c.gateway.Reload(load) == nil)
}

// LongestTimeout is [gateway.Gateway.LongestTimeout].
func (c *Client) LongestTimeout() time.Duration { return c.gateway.LongestTimeout() }

// CloseIdleConnections closes the connections to upstreams that no call uses.
func (c *Client) CloseIdleConnections() { c.gateway.Close() }

// Close ends what NewClient has started, for a client that is never served; more
// than once is allowed.
func (c *Client) Close() { c.stopLive() }

// Flush sends what is left of the traces; the last thing before the end.
func (c *Client) Flush(ctx context.Context) error {
	c.Close()
	c.CloseIdleConnections()
	return errors.Join(c.telemetry.Flush(ctx), c.metrics.Close(ctx))
}
