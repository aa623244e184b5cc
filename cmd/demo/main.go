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
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/faults"
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
	o := defineFlags(fs)
	if code, done := p.Parse(fs, help); done {
		return code
	}
	if err := o.check(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	traffic, err := o.traffic(fs)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if err := o.checkFaults(); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	cfg, err := o.load()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	logger := telemetry.NewLogger(p.Stderr, slog.LevelWarn)
	ready := serve.NewReadiness()
	ways, err := o.open(ctx, p, ready, logger, traffic)
	if errors.As(err, new(errOpen)) {
		return p.Fail(cli.ExitFailed, err)
	} else if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	with, without := ways.with, ways.without
	defer context.AfterFunc(ctx, with.Stop)()
	defer context.AfterFunc(ctx, without.Stop)()
	if o.file == "" {
		with.take(&cfg)
	}
	client, err := app.NewClient(ctx, p, cfg, ready, logger, o.livePage(ways, traffic))
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	defer client.Close()

	var sending sync.WaitGroup
	defer sending.Wait()
	sent, stopSending := context.WithCancel(ctx)
	defer stopSending()
	err = serve.Run(ctx, serve.Config{
		Data: slices.Concat([]serve.Listener{
			{Name: "client", Addr: o.client, Flag: "--listen", Handler: client.Data, Drained: client.CloseIdleConnections},
		}, with.listeners, without.listeners), // after the client, which calls them
		Admin: []serve.Listener{
			{Name: "client's admin", Addr: o.clientAdmin, Flag: "--admin", Handler: client.Admin},
			ways.admin,
		},
		DrainTimeout: func() time.Duration { return drainTimeout },
		Flush: func(ctx context.Context) error {
			return errors.Join(client.Flush(ctx), with.Flush(ctx), without.Flush(ctx))
		},
		FlushTimeout: flushTimeout,
		Reload:       o.reload(client, traffic),
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		sending.Go(func() {
			traffic.Run(sent, "http://"+addrs["client"].String()+"/process", without.urls()...)
		})
		welcome(p.Stdout, o.spec, o.perSecond, map[string]string{
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
