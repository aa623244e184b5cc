// Package app assembles client, with its traces, metrics, log and live page, for the commands.
package app

import (
	"context"
	"crypto/tls"
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

// Client is the gateway with its traces, metrics, log and live page, as the commands client and
// demo run it.
type Client struct {
	Data  http.Handler
	TLS   *tls.Config // of the data port; nil for no TLS
	Admin http.Handler

	gateway   *gateway.Gateway
	telemetry *telemetry.Telemetry
	metrics   *telemetry.Metrics
	stopLive  func()
}

// LivePage configures the client's live page.
type LivePage struct {
	Faults  string          // URL of flaky-server's admin port, if the page may change its faults; empty if not
	Traces  string          // where to find a call's trace, as in [page.Options]; empty if nowhere
	Hosts   siteguard.Hosts // host names accepted on the admin port, besides those that [siteguard.Guard] always accepts
	Listen  string          // address of the data port, for the page's example call; empty for no example
	Traffic page.Traffic    // a traffic generator that the page controls; nil for none
	Tour    bool            // the page offers a tour, for which it needs Faults and Traffic
}

// Check returns the error that NewClient would return for p.
func (p LivePage) Check() error {
	_, err := page.New(live.New(), p.options())
	return err
}

func (p LivePage) options() page.Options {
	return page.Options{Faults: p.Faults, Traces: p.Traces, Traffic: p.Traffic, Tour: p.Tour, Hosts: p.Hosts}
}

// NewClient assembles a gateway. [Client.Flush] or [Client.Close] stops what it starts. The error
// is about the environment, the configuration or the live page.
func NewClient(ctx context.Context, p cli.Program, cfg gateway.Config, ready *serve.Readiness, logger *slog.Logger, livePage LivePage) (*Client, error) {
	tel, err := telemetry.Start(ctx, telemetry.Options{Service: "client", Version: version.String(), LookupEnv: p.LookupEnv, Environ: p.Environ, Logger: logger})
	if err != nil {
		return nil, err
	}
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		return nil, err
	}
	metrics.Reload(true) // the initial configuration
	recent := live.New()
	pageOptions := livePage.options()
	pageOptions.Example = example(livePage.Listen, cfg)
	web, err := page.New(recent, pageOptions)
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
	if err := metrics.Attach(telemetry.Sources{Upstreams: g.Upstreams, FilesRefused: g.FilesRefused, ReplayMemory: g.ReplayMemory, Active: g.Active, DroppedLines: telemetry.DroppedLines(logger)}); err != nil {
		return nil, err
	}
	// The page stays up while the program drains, after ctx has ended.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		web.Run(running)
	}()
	return &Client{
		Data: tel.Handler(g), TLS: g.TLS(), Admin: g.Admin(ready.Livez(), ready.Readyz(), metrics.Handler(), web.Handler(), livePage.Hosts...),
		gateway: g, telemetry: tel, metrics: metrics, stopLive: func() { stop(); <-ended },
	}, nil
}

// example returns the URL of a call that a visitor of the page can make: a GET route whose path has
// no variables. It returns "" if there is none.
func example(listen string, cfg gateway.Config) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost" // works on this machine, and through a port forward
	}
	scheme := "http"
	if cfg.Listener.TLS != (gateway.ListenerTLS{}) {
		scheme = "https"
	}
	for _, r := range cfg.Routes {
		method, path, ok := strings.Cut(r.Match, " ")
		if !ok {
			method, path = http.MethodGet, r.Match
		}
		if method == http.MethodGet && strings.HasPrefix(path, "/") && !strings.Contains(path, "{") {
			return scheme + "://" + net.JoinHostPort(host, port) + path
		}
	}
	return ""
}

// Reload calls [gateway.Gateway.Reload], and records the result in the metrics.
func (c *Client) Reload(load func() (gateway.Config, error)) {
	c.metrics.Reload(c.gateway.Reload(load) == nil)
}

// LongestTimeout calls [gateway.Gateway.LongestTimeout].
func (c *Client) LongestTimeout() time.Duration { return c.gateway.LongestTimeout() }

// CloseIdleConnections closes idle connections to upstreams.
func (c *Client) CloseIdleConnections() { c.gateway.Close() }

// Close stops what NewClient started, for a client that is never served. It may be called more than
// once.
func (c *Client) Close() { c.stopLive() }

// Flush closes the client and sends the remaining traces. It is the last call.
func (c *Client) Flush(ctx context.Context) error {
	c.Close()
	c.CloseIdleConnections()
	return errors.Join(c.telemetry.Flush(ctx), c.metrics.Close(ctx))
}
