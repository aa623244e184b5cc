// Command client is a server: an HTTP gateway. It proxies routes to upstreams and applies a
// resilience policy to each call.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/heap"
	"github.com/rebound-dev/rebound/internal/httproute"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/watch"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// flushTimeout limits sending the last spans, in case the collector is unreachable.
const flushTimeout = 3 * time.Second

func main() { cli.Main("client", run) }

// run is the program: it serves until ctx ends and returns the exit code.
func run(ctx context.Context, p cli.Program) int {
	if code, done := p.Probe(ctx); done {
		return code
	}
	hangups, stopHangups := serve.Hangups()
	defer stopHangups()
	fs := p.Flags()
	listen := fs.String("listen", ":8080", "`ADDR` of the data port, which serves the routes")
	admin := fs.String("admin", ":8081", "`ADDR` of the admin port: the live page at /, and /livez, /readyz, /metrics, /config, /breakers, /debug/pprof/")
	file := fs.String("config", "", "YAML `FILE` with routes and policies, or with HTTPRoutes of the Gateway API; it is reloaded when it changes, and on SIGHUP")
	upstream := fs.String("upstream", "", "instead of a file: send every path to `URL` under the default policy")
	var times timeouts
	defaults := transport.DefaultPolicy()
	fs.DurationVar(&times.call, "timeout", defaults.Timeout, "with --upstream: the longest `TIME` from the start of a call to its response headers, with all attempts and waits")
	fs.DurationVar(&times.attempt, "attempt-timeout", defaults.AttemptTimeout, "with --upstream: the longest `TIME` of one attempt, at most --timeout; if --timeout is shorter than the default, it applies here too")
	check := fs.Bool("check", false, "print the effective configuration as YAML and exit with 0, or with 2 if it is wrong")
	var livePage app.LivePage
	fs.StringVar(&livePage.Faults, "faults", "", "`URL` of the admin port of a flaky-server whose faults the live page may change")
	fs.StringVar(&livePage.Traces, "traces", "", "`URL` of a Jaeger, or any URL with {id}, to link calls on the live page to their traces")
	fs.Var(&livePage.Hosts, "hosts", "comma-separated host `NAMES` that the admin port accepts, or *; it always accepts IP addresses and names in a cluster")
	var level telemetry.Level
	fs.TextVar(&level, "log-level", telemetry.Level(slog.LevelInfo), "the lowest `LEVEL` to log: debug (a line for each attempt), info, warn or error")
	drainDelay := fs.Duration("drain-delay", 0, "how long to keep serving after readiness fails")
	drainTimeout := fs.Duration("drain-timeout", 0, "the longest `TIME` that calls in flight have after that, before a stop cuts them; 0 means the longest timeout of the policies that routes use")

	if code, done := p.Parse(fs, help); done {
		return code
	}
	if err := cli.CheckAddresses(*listen, *admin); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *drainDelay < 0 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--drain-delay: must be at least 0, got %v", *drainDelay))
	}
	if *drainTimeout < 0 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--drain-timeout: must be at least 0, got %v", *drainTimeout))
	}
	if err := livePage.Check(); err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--%w", err))
	}
	fs.Visit(func(f *flag.Flag) {
		times.callGiven = times.callGiven || f.Name == "timeout"
		times.attemptGiven = times.attemptGiven || f.Name == "attempt-timeout"
	})
	log := telemetry.StartLog(p.Stderr, level)
	defer log.Close() // the last of all, for the lines of the others
	logger := log.Logger
	var changes *watch.File
	if *file != "" && !*check {
		changes = watch.New(*file, func() ([]byte, error) { return config.Read(*file) }, logger)
		defer changes.Close()
	}
	cfg, notes, err := configuration(*file, *upstream, times, changes)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *check {
		return printConfiguration(ctx, p, cfg, notes)
	}
	httproute.Log(ctx, logger, notes)
	defer heap.Relax(p.LookupEnv)()
	ready := serve.NewReadiness()
	livePage.Listen = *listen
	client, err := app.NewClient(ctx, p, cfg, ready, logger, livePage)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	defer client.Close()
	var reload func() // nil without a file
	if changes != nil {
		reload = changes.Look
		var watching sync.WaitGroup
		defer watching.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watching.Go(func() {
			changes.Run(ctx, func(data []byte, err error) {
				client.Reload(func() (gateway.Config, error) {
					cfg, notes, err := decode(*file, data, err)
					httproute.Log(ctx, logger, notes)
					return cfg, err
				})
			})
		})
	}
	err = serve.Run(ctx, serve.Config{
		Data:       []serve.Listener{{Name: "data", Addr: *listen, Flag: "--listen", Handler: client.Data, TLS: client.TLS}},
		Admin:      []serve.Listener{{Name: "admin", Addr: *admin, Flag: "--admin", Handler: client.Admin}},
		DrainDelay: *drainDelay,
		DrainTimeout: func() time.Duration {
			longest := client.LongestTimeout()
			return min(longest, cmp.Or(*drainTimeout, longest))
		},
		Flush:        client.Flush,
		FlushTimeout: flushTimeout,
		Reload:       reload,
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		url := serve.URL
		if client.TLS != nil {
			url = serve.SecureURL
		}
		fmt.Fprintf(p.Stdout, "routes    %s\nadmin     %s\n%s", url(addrs["data"]), serve.URL(addrs["admin"]), app.Timeouts(cfg))
	})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// printConfiguration checks what only a client that starts finds, a wrong OTEL_* variable or a
// missing file of a certificate, and prints the configuration. It returns the exit code.
func printConfiguration(ctx context.Context, p cli.Program, cfg gateway.Config, notes []httproute.Note) int {
	for _, n := range notes {
		fmt.Fprintf(p.Stderr, "client: %s\n", n)
	}
	tel, err := telemetry.Start(ctx, telemetry.Options{Service: "client", LookupEnv: p.LookupEnv})
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if err := tel.Flush(ctx); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	g, err := gateway.New(cfg, gateway.Options{})
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	g.Close()
	text, err := config.Marshal(cfg)
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	if _, err := p.Stdout.Write(text); err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// timeouts are the flags that change the policy of --upstream.
type timeouts struct {
	call, attempt           time.Duration
	callGiven, attemptGiven bool
}

// apply sets the timeouts in p. Without --attempt-timeout, a shorter --timeout also limits the
// attempt. With it, an attempt longer than the call is a mistake.
func (t timeouts) apply(p *transport.Policy) error {
	if !t.attemptGiven {
		t.attempt = min(t.attempt, t.call)
	}
	switch {
	case t.call <= 0:
		return fmt.Errorf("--timeout: must be above 0, got %v", t.call)
	case t.attempt <= 0:
		return fmt.Errorf("--attempt-timeout: must be above 0, got %v", t.attempt)
	case t.attempt > t.call:
		return fmt.Errorf("--attempt-timeout: must be at most --timeout (%v), got %v", t.call, t.attempt)
	}
	p.Timeout, p.AttemptTimeout = t.call, t.attempt
	return nil
}

// configuration returns the configuration of the file, or of the one upstream. If changes is not
// nil, it uses the content that changes read first.
func configuration(file, upstream string, times timeouts, changes *watch.File) (gateway.Config, []httproute.Note, error) {
	switch {
	case changes != nil && upstream == "" && !times.callGiven && !times.attemptGiven:
		data, err := changes.Content()
		return decode(file, data, err)
	case file != "" && upstream == "" && !times.callGiven && !times.attemptGiven:
		data, err := config.Read(file)
		return decode(file, data, err)
	}
	cfg, err := fromFlags(file, upstream, times)
	return cfg, nil, err
}

// fromFlags returns the configuration of the one upstream, or says what is wrong with the flags.
func fromFlags(file, upstream string, times timeouts) (gateway.Config, error) {
	switch {
	case file != "" && upstream != "":
		return gateway.Config{}, errors.New("--config and --upstream exclude each other: the file has the upstreams")
	case upstream == "" && times.callGiven:
		return gateway.Config{}, errors.New("--timeout: needs --upstream; in a file each policy has its timeout")
	case upstream == "" && times.attemptGiven:
		return gateway.Config{}, errors.New("--attempt-timeout: needs --upstream; in a file each policy has its attemptTimeout")
	case upstream != "":
		cfg := gateway.ForUpstream(upstream)
		policy := cfg.Policies[gateway.DefaultPolicyName]
		if err := times.apply(&policy); err != nil {
			return cfg, err
		}
		cfg.Policies[gateway.DefaultPolicyName] = policy
		if err := cfg.Validate(); err != nil {
			return cfg, fmt.Errorf("--upstream: %w", err)
		}
		return cfg, nil
	}
	return gateway.Config{}, errors.New("nothing to proxy to: give --config FILE or --upstream URL\nsee client --help")
}

// decode decodes data, the content of the file, over the defaults, or makes a configuration of its
// HTTPRoutes, with notes about what is not carried over. If err, the error of reading the file, is
// not nil, it returns the defaults and err.
func decode(file string, data []byte, err error) (gateway.Config, []httproute.Note, error) {
	if err == nil && httproute.Is(data) {
		return httproute.Config(file, data)
	}
	cfg := gateway.DefaultConfig()
	if err == nil {
		err = config.Decode(file, data, &cfg)
	}
	return cfg, nil, err
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `client is a server: an HTTP gateway with timeouts, retries and circuit breakers.

Usage: client --config FILE [flags]
       client --upstream URL [flags]
       client probe URL

`)
	config.Usage(w, fs, "listen", "admin", "config", "upstream", "timeout", "attempt-timeout", "check", "drain-delay", "drain-timeout", "log-level", "faults", "traces", "hosts", "version")
	fmt.Fprint(w, `
Examples:
  client --upstream http://localhost:5000
  client --upstream http://localhost:5000 --timeout 30s --attempt-timeout 10s
  client --config rebound.yaml --check
  curl -i localhost:8080/process; curl localhost:8081/breakers

client exits with 0 after SIGINT or SIGTERM, 1 if it cannot serve, and 2 if a flag or the configuration is wrong.
probe makes one GET, for health checks. It exits with 0 if the response is 2xx, and with 1 if it is not.
`)
}
