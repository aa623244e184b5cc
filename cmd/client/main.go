// Command client is the gateway: it proxies routes to upstreams, and every call
// survives what its policy lets it survive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/rebound-dev/rebound/pkg/config"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/program"
	"github.com/rebound-dev/rebound/pkg/serve"
	"github.com/rebound-dev/rebound/pkg/telemetry"
)

// flushTimeout is how long the last spans may take to a collector that may be away.
const flushTimeout = 3 * time.Second

func main() { program.Main("client", run) }

// run is the program: it serves until ctx ends and returns the exit code.
func run(ctx context.Context, p program.Program) int {
	fs := p.Flags()
	listen := fs.String("listen", ":8080", "`ADDR` of the data port: the routes")
	admin := fs.String("admin", ":8081", "`ADDR` of the admin port: /livez, /readyz, /metrics, /config, /breakers, /debug/pprof/")
	file := fs.String("config", "", "routes and policies, YAML, in `FILE`")
	upstream := fs.String("upstream", "", "without a file: send every path to `URL` under the default policy")
	check := fs.Bool("check", false, "print the effective configuration as YAML and exit with 0, or 2 if it is wrong")
	drainDelay := fs.Duration("drain-delay", 0, "how long to go on serving after readiness has failed")

	if code, done := p.Parse(fs, help); done {
		return code
	}
	if err := program.CheckAddresses(*listen, *admin); err != nil {
		return p.Fail(program.ExitUsage, err)
	}
	if *drainDelay < 0 {
		return p.Fail(program.ExitUsage, fmt.Errorf("--drain-delay: must be at least 0, got %v", *drainDelay))
	}
	cfg, err := configuration(*file, *upstream)
	if err != nil {
		return p.Fail(program.ExitUsage, err)
	}
	if *check {
		text, err := config.Marshal(cfg)
		if err != nil {
			return p.Fail(program.ExitFailed, err)
		}
		if _, err := p.Stdout.Write(text); err != nil {
			return p.Fail(program.ExitFailed, err)
		}
		return program.ExitOK
	}

	logger := telemetry.NewLogger(p.Stderr, slog.LevelInfo)
	ready := serve.NewReadiness()
	client, err := p.NewClient(ctx, cfg, ready, logger)
	if err != nil {
		return p.Fail(program.ExitUsage, err)
	}
	err = serve.Run(ctx, serve.Config{
		Data:         []serve.Listener{{Name: "data", Addr: *listen, Handler: client.Data}},
		Admin:        []serve.Listener{{Name: "admin", Addr: *admin, Handler: client.Admin}},
		DrainDelay:   *drainDelay,
		DrainTimeout: drainTimeout(cfg),
		Flush:        client.Flush,
		FlushTimeout: flushTimeout,
		Logger:       logger,
	}, ready, func(addrs map[string]net.Addr) {
		fmt.Fprintf(p.Stdout, "routes  %s\nadmin   %s\n", serve.URL(addrs["data"]), serve.URL(addrs["admin"]))
	})
	if err != nil {
		return p.Fail(program.ExitFailed, err)
	}
	return program.ExitOK
}

// configuration is that of the file, or of the one upstream.
func configuration(file, upstream string) (gateway.Config, error) {
	switch {
	case file != "" && upstream != "":
		return gateway.Config{}, errors.New("--config and --upstream exclude each other: the file has the upstreams")
	case file != "":
		cfg := gateway.DefaultConfig()
		return cfg, config.Load(file, &cfg)
	case upstream != "":
		cfg := gateway.ForUpstream(upstream)
		if err := cfg.Validate(); err != nil {
			return cfg, fmt.Errorf("--upstream: %w", err)
		}
		return cfg, nil
	}
	return gateway.Config{}, errors.New("nothing to proxy to: give --config FILE or --upstream URL\nsee client --help")
}

// drainTimeout lets every call in flight end by its own timeout.
func drainTimeout(cfg gateway.Config) time.Duration {
	var longest time.Duration
	for _, p := range cfg.Policies {
		longest = max(longest, p.Timeout)
	}
	return longest
}

func help(w io.Writer, fs *flag.FlagSet) {
	fmt.Fprint(w, `client is a gateway that retries, times out and breaks circuits by a policy.

Usage: client --config FILE [flags]
       client --upstream URL [flags]

`)
	config.Usage(w, fs, "listen", "admin", "config", "upstream", "check", "drain-delay", "version")
	fmt.Fprint(w, `
Examples:
  client --upstream http://localhost:5000
  client --config rebound.yaml --check
  curl -i localhost:8080/process; curl localhost:8081/breakers

It ends with 0 after SIGINT or SIGTERM, 1 if it cannot serve, 2 if a flag or the configuration is wrong.
`)
}
