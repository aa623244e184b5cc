// Command client is a server: an HTTP gateway. It proxies routes to upstreams and applies a
// resilience policy to each call.
package main

import (
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
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/watch"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// flushTimeout is how long the last spans may take to a collector that may be away.
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
	listen := fs.String("listen", ":8080", "`ADDR` of the data port: the routes")
	admin := fs.String("admin", ":8081", "`ADDR` of the admin port: the live page at /, /livez, /readyz, /metrics, /config, /breakers, /debug/pprof/")
	file := fs.String("config", "", "routes and policies, YAML, in `FILE`; a change of it takes effect at once, and so does SIGHUP")
	upstream := fs.String("upstream", "", "without a file: send every path to `URL` under the default policy")
	var times timeouts
	defaults := transport.DefaultPolicy()
	fs.DurationVar(&times.call, "timeout", defaults.Timeout, "with --upstream: the `TIME` that a call may take, with all attempts and waits, until the response headers")
	fs.DurationVar(&times.attempt, "attempt-timeout", defaults.AttemptTimeout, "with --upstream: the `TIME` that one attempt may take, at most --timeout; a shorter --timeout lowers the default to itself")
	check := fs.Bool("check", false, "print the effective configuration as YAML and exit with 0, or 2 if it is wrong")
	var livePage app.LivePage
	fs.StringVar(&livePage.Faults, "faults", "", "let the live page change the faults of the flaky-server whose admin port is at `URL`")
	fs.StringVar(&livePage.Traces, "traces", "", "link calls of the live page to their traces at `URL`, that of a Jaeger or one with {id} in it")
	fs.Var(&livePage.Hosts, "hosts", "`NAMES` under which the admin port may be asked, with commas between them, or *; addresses and names within a cluster always may")
	var level telemetry.Level
	fs.TextVar(&level, "log-level", telemetry.Level(slog.LevelInfo), "the least `LEVEL` of log lines: debug (a line for each attempt), info, warn or error")
	drainDelay := fs.Duration("drain-delay", 0, "how long to go on serving after readiness has failed")

	if code, done := p.Parse(fs, help); done {
		return code
	}
	if err := cli.CheckAddresses(*listen, *admin); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *drainDelay < 0 {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--drain-delay: must be at least 0, got %v", *drainDelay))
	}
	if err := livePage.Check(); err != nil {
		return p.Fail(cli.ExitUsage, fmt.Errorf("--%w", err))
	}
	fs.Visit(func(f *flag.Flag) {
		times.callGiven = times.callGiven || f.Name == "timeout"
		times.attemptGiven = times.attemptGiven || f.Name == "attempt-timeout"
	})
	logger := telemetry.NewLogger(p.Stderr, level)
	var changes *watch.File
	if *file != "" && !*check {
		changes = watch.New(*file, func() ([]byte, error) { return config.Read(*file) }, logger)
		defer changes.Close()
	}
	cfg, err := configuration(*file, *upstream, times, changes)
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *check {
		text, err := config.Marshal(cfg)
		if err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
		if _, err := p.Stdout.Write(text); err != nil {
			return p.Fail(cli.ExitFailed, err)
		}
		return cli.ExitOK
	}

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
				client.Reload(func() (gateway.Config, error) { return decode(*file, data, err) })
			})
		})
	}
	err = serve.Run(ctx, serve.Config{
		Data:         []serve.Listener{{Name: "data", Addr: *listen, Handler: client.Data}},
		Admin:        []serve.Listener{{Name: "admin", Addr: *admin, Handler: client.Admin}},
		DrainDelay:   *drainDelay,
		DrainTimeout: client.LongestTimeout,
		Flush:        client.Flush,
		FlushTimeout: flushTimeout,
		Reload:       reload,
		Hangups:      hangups,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		fmt.Fprintf(p.Stdout, "routes    %s\nadmin     %s\n%s", serve.URL(addrs["data"]), serve.URL(addrs["admin"]), app.Timeouts(cfg))
	})
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// timeouts are those of --upstream's policy.
type timeouts struct {
	call, attempt           time.Duration
	callGiven, attemptGiven bool
}

// apply changes a policy. An attempt is never given more time than its call, unless
// somebody says so, which is a mistake.
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

// configuration is that of the file, as it was read when its watch began if there
// is one, or of the one upstream.
func configuration(file, upstream string, times timeouts, changes *watch.File) (gateway.Config, error) {
	switch {
	case file != "" && upstream != "":
		return gateway.Config{}, errors.New("--config and --upstream exclude each other: the file has the upstreams")
	case upstream == "" && times.callGiven:
		return gateway.Config{}, errors.New("--timeout: needs --upstream; in a file each policy has its timeout")
	case upstream == "" && times.attemptGiven:
		return gateway.Config{}, errors.New("--attempt-timeout: needs --upstream; in a file each policy has its attemptTimeout")
	case changes != nil:
		data, err := changes.Content()
		return decode(file, data, err)
	case file != "":
		data, err := config.Read(file)
		return decode(file, data, err)
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

// decode lays what was read of a file over the defaults.
func decode(file string, data []byte, err error) (gateway.Config, error) {
	cfg := gateway.DefaultConfig()
	if err == nil {
		err = config.Decode(file, data, &cfg)
	}
	return cfg, err
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `client is a server: an HTTP gateway that retries, times out and breaks circuits by a policy.

Usage: client --config FILE [flags]
       client --upstream URL [flags]
       client probe URL

`)
	config.Usage(w, fs, "listen", "admin", "config", "upstream", "timeout", "attempt-timeout", "check", "drain-delay", "log-level", "faults", "traces", "hosts", "version")
	fmt.Fprint(w, `
Examples:
  client --upstream http://localhost:5000
  client --upstream http://localhost:5000 --timeout 30s --attempt-timeout 10s
  client --config rebound.yaml --check
  curl -i localhost:8080/process; curl localhost:8081/breakers

It ends with 0 after SIGINT or SIGTERM, 1 if it cannot serve, 2 if a flag or the configuration is wrong.
probe makes one GET, for health checks, and ends with 0 if the answer is 2xx and 1 if it is not.
`)
}
