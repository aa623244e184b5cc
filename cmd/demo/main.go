// Command demo runs flaky-server and the client in front of it in one process, on loopback only. It
// shows what Rebound does.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

const (
	drainTimeout = 5 * time.Second
	flushTimeout = 3 * time.Second
)

// shippedSeed makes the first call need three attempts, so that a visitor sees retries at once.
const shippedSeed = 30

// shippedUpstream is the address of flaky-server in policyFile.
const shippedUpstream = "127.0.0.1:5000"

// policyFile is also shown in the README, and `client --config` accepts it.
//
//go:embed rebound.yaml
var policyFile []byte

func main() { cli.Main("demo", run) }

// run is the program: it serves until ctx ends and returns the exit code.
func run(ctx context.Context, p cli.Program) int {
	hangups, stopHangups := serve.Hangups()
	defer stopHangups()
	fs := p.Flags()
	spec := faults.Default()
	fs.Float64Var(&spec.ErrorRate, "error-rate", spec.ErrorRate, "share of attempts that get a 503, `0 to 1`")
	fs.Float64Var(&spec.ResetRate, "reset-rate", 0, "share of attempts whose connection is reset, `0 to 1`")
	fs.Float64Var(&spec.HangRate, "hang-rate", 0, "share of attempts that get no response, `0 to 1`")
	seed := fs.Uint64("seed", shippedSeed, "the same seed `N` gives the same faults")
	perSecond := fs.Int("traffic", 0, "`N` calls a second through the client and as many directly to the upstream, 0 to 200; the live page can change it")
	livePage := app.LivePage{}
	fs.StringVar(&livePage.Faults, "faults", "", "`URL` of the admin port of another flaky-server, whose faults the live page changes instead of the demo's own")
	fs.StringVar(&livePage.Traces, "traces", "", "`URL` of a Jaeger, or any URL with {id}, to link calls on the live page to their traces")
	file := fs.String("config", "", "YAML `FILE` with the client's routes and policies, instead of the demo's own; SIGHUP reloads it")
	ports := struct{ client, clientAdmin, flaky, flakyAdmin *string }{
		fs.String("listen", "127.0.0.1:8080", "`ADDR` of the client"),
		fs.String("admin", "127.0.0.1:8081", "`ADDR` of the client's admin port"),
		fs.String("flaky-listen", shippedUpstream, "`ADDR` of flaky-server"),
		fs.String("flaky-admin", "127.0.0.1:5001", "`ADDR` of flaky-server's admin port"),
	}

	if code, done := p.Parse(fs, help); done {
		return code
	}
	for _, addr := range []string{*ports.client, *ports.clientAdmin, *ports.flaky, *ports.flakyAdmin} {
		if err := onLoopback(addr); err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
	}
	if err := livePage.Check(); err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--%w", err))
	}
	traffic, err := page.NewGenerator(*perSecond, drainTimeout)
	if err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--traffic: %w", err))
	}
	livePage.Traffic = traffic
	livePage.Listen = *ports.client
	for _, r := range []struct {
		flag  string
		value float64
	}{{"error-rate", spec.ErrorRate}, {"reset-rate", spec.ResetRate}, {"hang-rate", spec.HangRate}} {
		if !(r.value >= 0 && r.value <= 1) { // also NaN
			return p.Fail(cli.ExitUsage, fmt.Errorf("--%s: expected a rate from 0 to 1, got %v", r.flag, r.value))
		}
	}
	injector, err := faults.New(spec, *seed)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	load := func() (gateway.Config, error) {
		cfg := gateway.DefaultConfig()
		if *file != "" {
			err := config.Load(*file, &cfg)
			return cfg, err
		}
		err := config.Decode("rebound.yaml", policyFile, &cfg)
		return cfg, err
	}
	cfg, err := load()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	logger := telemetry.NewLogger(p.Stderr, slog.LevelWarn)
	ready := serve.NewReadiness()
	quiet := p
	quiet.Environ = nil // the client warns about unused variables
	upstream, err := flakyapp.New(ctx, quiet, injector, "demo", ready, logger)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	defer context.AfterFunc(ctx, upstream.Stop)()

	// The addresses of flaky-server may have port 0. Open it first, so that the routes and the page
	// can name its real ports.
	flakyData, flakyAddr, err := serve.Open(ctx, serve.Listener{Name: "flaky-server", Addr: *ports.flaky, Flag: "--flaky-listen", Handler: upstream.Data})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	flakyAdmin, flakyAdminAddr, err := serve.Open(ctx, serve.Listener{Name: "flaky-server's admin", Addr: *ports.flakyAdmin, Flag: "--flaky-admin", Handler: upstream.Admin})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if livePage.Faults == "" {
		livePage.Faults = "http://" + flakyAdminAddr.String()
	}
	if *file == "" {
		for i := range cfg.Routes {
			cfg.Routes[i].Upstream = strings.Replace(cfg.Routes[i].Upstream, shippedUpstream, flakyAddr.String(), 1)
		}
	}
	client, err := app.NewClient(ctx, p, cfg, ready, logger, livePage)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}

	defer client.Close()
	var reload func() // nil without a file
	if *file != "" {
		reload = func() { client.Reload(load) }
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sent, stopSending := context.WithCancel(ctx)
	defer stopSending()
	err = serve.Run(ctx, serve.Config{
		Data: []serve.Listener{
			{Name: "client", Addr: *ports.client, Flag: "--listen", Handler: client.Data, Drained: client.CloseIdleConnections},
			flakyData, // after the client, which calls it
		},
		Admin: []serve.Listener{
			{Name: "client's admin", Addr: *ports.clientAdmin, Flag: "--admin", Handler: client.Admin},
			flakyAdmin,
		},
		DrainTimeout: func() time.Duration { return drainTimeout },
		Flush:        func(ctx context.Context) error { return errors.Join(client.Flush(ctx), upstream.Flush(ctx)) },
		FlushTimeout: flushTimeout,
		Reload:       reload,
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		sending.Go(func() {
			traffic.Run(sent, "http://"+addrs["client"].String()+"/process", "http://"+flakyAddr.String()+"/process")
		})
		welcome(p.Stdout, spec, map[string]string{
			"{timeouts}": strings.TrimSpace(app.Timeouts(cfg)),
			"{client}":   serve.URL(addrs["client"]), "{grpc}": strings.TrimPrefix(serve.URL(addrs["client"]), "http://"), "{client-admin}": serve.URL(addrs["client's admin"]),
			"{flaky}": serve.URL(addrs["flaky-server"]), "{flaky-admin}": serve.URL(addrs["flaky-server's admin"]),
		})
	})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	fmt.Fprintln(p.Stdout, "\nstopped")
	return cli.ExitOK
}

// onLoopback returns an error if addr is not on loopback: a misbehaving server must not be open to
// the network.
func onLoopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q: must be an address such as 127.0.0.1:8080: %w", addr, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q: the demo listens on loopback only, such as 127.0.0.1:8080; to serve a network, run client and flaky-server", addr)
	}
	return nil
}

// welcome prints the addresses and what to try next.
func welcome(w io.Writer, spec faults.Spec, texts map[string]string) {
	text := `{client-admin}/

Rebound demo: a client in front of an upstream where {rate} of the attempts fail. Open the live page above to see each call.

  {client}/process  through the client: timeout, retry, circuit breaker
  {client-admin}  the client's admin port: the live page, /api/calls /breakers /config /metrics
  {flaky}/process  the upstream itself; it serves gRPC too
  {flaky-admin}/faults  the upstream's faults: GET, PUT, PATCH; /ledger counts its requests

{timeouts}

Try:
  curl -i {client}/process
  for i in $(seq 100); do curl -s -o /dev/null -w '%{http_code} ' {client}/process; done; echo
  curl -X PUT -d 'errorRate: 1' {flaky-admin}/faults; curl -i {client}/process
  grpcurl -plaintext {grpc} rebound.flaky.v1.Flaky/Process

Ctrl-C stops it.
`
	pairs := []string{"{rate}", fmt.Sprintf("%.0f %%", 100*(spec.ErrorRate+spec.ResetRate+spec.HangRate))}
	for name, text := range texts {
		pairs = append(pairs, name, text)
	}
	_, _ = strings.NewReplacer(pairs...).WriteString(w, text)
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `demo runs flaky-server and the client in front of it in one process, on loopback only.

Usage: demo [flags]

`)
	config.Usage(w, fs, "listen", "admin", "flaky-listen", "flaky-admin", "config", "error-rate", "reset-rate", "hang-rate", "seed", "traffic", "faults", "traces", "version")
	fmt.Fprint(w, `
Examples:
  go run ./cmd/demo
  go run ./cmd/demo --error-rate 0.6
  go run ./cmd/demo --config my-policy.yaml

demo exits with 0 after Ctrl-C, 1 if it cannot serve (a port is in use), and 2 if a flag or the configuration is wrong.
`)
}
