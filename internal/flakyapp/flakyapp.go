// Package flakyapp assembles flaky-server, with its traces, metrics and log, for the commands.
package flakyapp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/version"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Server is the misbehaving server with its traces, metrics and log, as the commands flaky-server
// and demo run it.
type Server struct {
	Data  http.Handler
	Admin http.Handler
	// Endpoint is [flaky.Server.Endpoint], with traces.
	Endpoint func(isSick func() bool) http.Handler
	// Stop ends hanging calls.
	Stop func()
	// Reload is [flaky.Server.Reload].
	Reload func(load func() (faults.Spec, error))

	telemetry *telemetry.Telemetry
	metrics   *telemetry.Metrics
}

// New assembles the server. Its admin port accepts the host names in hosts, besides those that
// [siteguard.Guard] always accepts. The error is about the environment.
func New(ctx context.Context, p cli.Program, injector *faults.Injector, instance string, ready *serve.Readiness, logger *slog.Logger, hosts ...string) (*Server, error) {
	tel, err := telemetry.Start(ctx, telemetry.Options{Service: "flaky-server", Version: version.String(), LookupEnv: p.LookupEnv, Environ: p.Environ, Logger: logger})
	if err != nil {
		return nil, err
	}
	metrics, err := telemetry.NewMetrics()
	if err != nil {
		return nil, err
	}
	server, err := flaky.New(flaky.Options{
		Faults: injector, Instance: instance, Logger: logger, Livez: ready.Livez(), Readyz: ready.Readyz(), Hosts: hosts,
		Observe: func(ctx context.Context, f faults.Fate) {
			telemetry.SetFault(ctx, string(f.Fault))
			metrics.Fault(ctx, string(f.Fault))
		},
	})
	if err != nil {
		return nil, err
	}
	ready.Watch(func(state serve.State) { server.SetServing(state == serve.Ready) })
	admin := http.NewServeMux()
	admin.Handle("GET /metrics", metrics.Handler())
	admin.Handle("/", server.Admin())
	return &Server{
		Data: tel.Handler(server.Data()), Endpoint: func(isSick func() bool) http.Handler { return tel.Handler(server.Endpoint(isSick)) },
		Admin: admin, Stop: server.Stop, Reload: server.Reload, telemetry: tel, metrics: metrics,
	}, nil
}

// Flush sends the remaining traces. It is the last call.
func (s *Server) Flush(ctx context.Context) error {
	return errors.Join(s.telemetry.Flush(ctx), s.metrics.Close(ctx))
}
