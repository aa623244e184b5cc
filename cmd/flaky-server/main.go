// Command flaky-server is an upstream that misbehaves: at given rates, from a seed, on a schedule,
// and as PUT /faults asks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/siteguard"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// flushTimeout limits sending the last spans, in case the collector is unreachable.
const flushTimeout = 3 * time.Second

// drainTimeout is how long calls in flight have to end. Hanging calls end at once.
const drainTimeout = 10 * time.Second

func main() { cli.Main("flaky-server", run) }

// run is the program: it serves until ctx ends and returns the exit code.
func run(ctx context.Context, p cli.Program) int {
	if code, done := p.Probe(ctx); done {
		return code
	}
	hangups, stopHangups := serve.Hangups()
	defer stopHangups()
	fs := p.Flags()
	listen := fs.String("listen", ":5000", "`ADDR` of the data port: GET /process, POST /orders, gRPC")
	admin := fs.String("admin", ":5001", "`ADDR` of the admin port: /faults, /ledger, /metrics, /livez, /readyz")
	file := fs.String("config", "", "YAML or JSON `FILE` with the faults; missing values keep their defaults; SIGHUP reloads it")
	check := fs.Bool("check", false, "print the faults as YAML and exit with 0, or with 2 if the file or a variable is wrong")
	var hosts siteguard.Hosts
	fs.Var(&hosts, "hosts", "comma-separated host `NAMES` that the admin port accepts, or *; it always accepts IP addresses and names in a cluster")
	var level telemetry.Level
	fs.TextVar(&level, "log-level", telemetry.Level(slog.LevelInfo), "the lowest `LEVEL` to log: debug (a line for each request), info, warn or error")
	seed := fs.Uint64("seed", 0, "the same seed `N` gives the same faults; 0 picks a seed and prints it")

	if code, done := p.Parse(fs, help); done {
		return code
	}
	if err := cli.CheckAddresses(*listen, *admin); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	load := func() (faults.Spec, error) {
		spec := faults.Default()
		if *file == "" {
			return spec, nil
		}
		err := config.Load(*file, &spec)
		return spec, err
	}
	spec, err := load()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	for *seed == 0 {
		*seed = rand.Uint64()
	}
	injector, err := faults.New(spec, *seed)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	instance, _ := p.LookupEnv("HOSTNAME") // the pod's name in Kubernetes
	logger := telemetry.NewLogger(p.Stderr, level)
	ready := serve.NewReadiness()
	server, err := flakyapp.New(ctx, p, injector, instance, ready, logger, hosts...)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	defer context.AfterFunc(ctx, server.Stop)()
	if *check {
		text, err := config.Marshal(spec)
		if err == nil {
			_, err = p.Stdout.Write(text)
		}
		if err := errors.Join(err, server.Flush(ctx)); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
		return cli.ExitOK
	}
	var reload func() // nil without a file
	if *file != "" {
		reload = func() { server.Reload(load) }
	}

	err = serve.Run(ctx, serve.Config{
		Data:         []serve.Listener{{Name: "data", Addr: *listen, Flag: "--listen", Handler: server.Data}},
		Admin:        []serve.Listener{{Name: "admin", Addr: *admin, Flag: "--admin", Handler: server.Admin}},
		DrainTimeout: func() time.Duration { return drainTimeout },
		Flush:        server.Flush,
		FlushTimeout: flushTimeout,
		Reload:       reload,
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		data, admin := serve.URL(addrs["data"]), serve.URL(addrs["admin"])
		fmt.Fprintf(p.Stdout, "process  %s/process\nfaults   %s/faults\nledger   %s/ledger\nseed     %d\n", data, admin, admin, *seed)
	})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `flaky-server is an upstream over HTTP and gRPC that misbehaves. By default, three calls in ten get a 503.

Usage: flaky-server [flags]
       flaky-server probe URL

`)
	config.Usage(w, fs, "listen", "admin", "config", "check", "seed", "log-level", "hosts", "version")
	fmt.Fprint(w, `
Examples:
  flaky-server --seed 42
  curl -X PUT -d 'errorRate: 1' localhost:5001/faults
  curl -X PATCH -d 'latency: {distribution: lognormal, median: 20ms, p99: 200ms}' localhost:5001/faults
  curl -H 'X-Request-Id: a' localhost:5000/process
  curl -d '{"order": "o-1", "item": "tea"}' localhost:5000/orders; curl localhost:5001/ledger

flaky-server exits with 0 after SIGINT or SIGTERM, 1 if it cannot serve, and 2 if a flag or the file is wrong.
probe makes one GET, for health checks. It exits with 0 if the response is 2xx, and with 1 if it is not.
`)
}
