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
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
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
	spec := shipped()
	fs.Float64Var(&spec.ErrorRate, "error-rate", spec.ErrorRate, "share of attempts that get a 503, `0 to 1`")
	fs.Float64Var(&spec.ResetRate, "reset-rate", 0, "share of attempts whose connection is reset, `0 to 1`")
	fs.Float64Var(&spec.HangRate, "hang-rate", 0, "share of attempts that get no response, `0 to 1`")
	seed := fs.Uint64("seed", shippedSeed, "the same seed `N` gives the same faults")
	perSecond := fs.Int("traffic", 20, "`N` calls of GET /process a second through the client and as many to an upstream of their own without it, 0 to 200; with --config 0 unless it is given; the live page can change it")
	noTour := fs.Bool("no-tour", false, "do not offer the tour on the live page")
	livePage := app.LivePage{}
	fs.StringVar(&livePage.Faults, "faults", "", "`URL` of the admin port of another flaky-server, whose faults the live page changes instead of the demo's own; only with --config, which leads to that upstream")
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
	if livePage.Faults != "" && *file == "" {
		return p.Fail(cli.ExitUsage, errors.New("--faults: needs --config with routes to the upstream whose faults these are"))
	}
	n := endpoints
	if *file != "" {
		n = 1 // the file names the first endpoint only
		given := false
		fs.Visit(func(f *flag.Flag) { given = given || f.Name == "traffic" })
		if !given {
			*perSecond = 0 // the file may lead to a real upstream
		}
	}
	traffic, err := page.NewGenerator(*perSecond, n-1, drainTimeout)
	if err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--traffic: %w", err))
	}
	livePage.Traffic = traffic
	livePage.Listen = *ports.client
	livePage.Tour = !*noTour && *file == "" // it is about the demo's own policy and endpoints
	for _, r := range []struct {
		flag  string
		value float64
	}{{"error-rate", spec.ErrorRate}, {"reset-rate", spec.ResetRate}, {"hang-rate", spec.HangRate}} {
		if !(r.value >= 0 && r.value <= 1) { // also NaN
			return p.Fail(cli.ExitUsage, fmt.Errorf("--%s: expected a rate from 0 to 1, got %v", r.flag, r.value))
		}
	}
	if err := spec.Validate(); err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("faults: %w", err))
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
	// The addresses of the upstreams may have port 0. Open them first, so that the routes and the
	// page can name their real ports.
	var sides [2]*upstream // with the client, without
	for i, first := range []serve.Listener{
		{Name: "flaky-server", Addr: *ports.flaky, Flag: "--flaky-listen"},
		{Name: "the upstream without the client", Addr: "127.0.0.1:0"},
	} {
		if sides[i], err = newUpstream(ctx, quiet, spec, *seed, ready, logger, traffic, n, first); errors.As(err, new(errOpen)) {
			return p.Fail(cli.ExitFailed, err)
		} else if err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
		defer context.AfterFunc(ctx, sides[i].Stop)()
	}
	with, without := sides[0], sides[1]
	flakyAdmin, flakyAdminAddr, err := serve.Open(ctx, serve.Listener{Name: "flaky-server's admin", Addr: *ports.flakyAdmin, Flag: "--flaky-admin", Handler: twins(with.Admin, without.Admin, traffic.Forget)})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if livePage.Faults == "" {
		livePage.Faults = "http://" + flakyAdminAddr.String()
	}
	if *file == "" {
		cfg.Upstreams = map[string]gateway.Upstream{"demo": with.route()}
		for i := range cfg.Routes {
			if strings.HasPrefix(cfg.Routes[i].Upstream, "http://") {
				cfg.Routes[i].Upstream = "demo"
				continue
			} // the others are for gRPC, which has one endpoint
			cfg.Routes[i].Upstream = strings.Replace(cfg.Routes[i].Upstream, shippedUpstream, with.addrs[0], 1)
		}
	}
	client, err := app.NewClient(ctx, p, cfg, ready, logger, livePage)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}

	defer client.Close()
	var reload func() // nil without a file
	if *file != "" {
		reload = func() {
			refused := true
			client.Reload(func() (gateway.Config, error) {
				cfg, err := load()
				refused = err != nil
				return cfg, err
			})
			if !refused {
				traffic.Forget() // the routes may lead to another upstream now
			}
		}
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	sent, stopSending := context.WithCancel(ctx)
	defer stopSending()
	err = serve.Run(ctx, serve.Config{
		Data: slices.Concat([]serve.Listener{
			{Name: "client", Addr: *ports.client, Flag: "--listen", Handler: client.Data, Drained: client.CloseIdleConnections},
		}, with.listeners, without.listeners), // after the client, which calls them
		Admin: []serve.Listener{
			{Name: "client's admin", Addr: *ports.clientAdmin, Flag: "--admin", Handler: client.Admin},
			flakyAdmin,
		},
		DrainTimeout: func() time.Duration { return drainTimeout },
		Flush: func(ctx context.Context) error {
			return errors.Join(client.Flush(ctx), with.Flush(ctx), without.Flush(ctx))
		},
		FlushTimeout: flushTimeout,
		Reload:       reload,
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		sending.Go(func() {
			traffic.Run(sent, "http://"+addrs["client"].String()+"/process", without.urls()...)
		})
		welcome(p.Stdout, spec, *perSecond, map[string]string{
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
func welcome(w io.Writer, spec faults.Spec, perSecond int, texts map[string]string) {
	text := `{client-admin}/

Rebound demo: a client in front of an upstream where {rate} of the attempts fail. Open the live page above to see each call{traffic}.

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
	pairs := []string{"{rate}", fmt.Sprintf("%.0f %%", 100*(spec.ErrorRate+spec.ResetRate+spec.HangRate)), "{traffic}", ""}
	if perSecond > 0 {
		pairs[3] = fmt.Sprintf("; %d a second are made with the policy, and as many without it", perSecond)
	}
	for name, text := range texts {
		pairs = append(pairs, name, text)
	}
	_, _ = strings.NewReplacer(pairs...).WriteString(w, text)
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `demo runs flaky-server and the client in front of it in one process, on loopback only.

Usage: demo [flags]

`)
	config.Usage(w, fs, "listen", "admin", "flaky-listen", "flaky-admin", "config", "error-rate", "reset-rate", "hang-rate", "seed", "traffic", "no-tour", "faults", "traces", "version")
	fmt.Fprint(w, `
Examples:
  go run ./cmd/demo
  go run ./cmd/demo --error-rate 0.6
  go run ./cmd/demo --config my-policy.yaml

demo exits with 0 after Ctrl-C, 1 if it cannot serve (a port is in use), and 2 if a flag or the configuration is wrong.
`)
}
