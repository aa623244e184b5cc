package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// options are what the flags say.
type options struct {
	spec                                   faults.Spec
	seed                                   uint64
	perSecond                              int
	noTour                                 bool
	page                                   app.LivePage
	file                                   string // empty for the demo's own routes and policies
	client, clientAdmin, flaky, flakyAdmin string // addresses
}

func defineFlags(fs *flag.FlagSet) *options {
	o := &options{spec: shipped()}
	fs.Float64Var(&o.spec.ErrorRate, "error-rate", o.spec.ErrorRate, "share of attempts that get a 503, `0 to 1`")
	fs.Float64Var(&o.spec.ResetRate, "reset-rate", 0, "share of attempts whose connection is reset, `0 to 1`")
	fs.Float64Var(&o.spec.HangRate, "hang-rate", 0, "share of attempts that get no response, `0 to 1`")
	fs.Uint64Var(&o.seed, "seed", shippedSeed, "the same seed `N` gives the same faults")
	fs.IntVar(&o.perSecond, "traffic", 20, "`N` calls of GET /process a second through the client and as many to an upstream of their own without it, 0 to 200; with --config 0 unless it is given; the live page can change it")
	fs.BoolVar(&o.noTour, "no-tour", false, "do not offer the tour on the live page")
	fs.StringVar(&o.page.Faults, "faults", "", "`URL` of the admin port of another flaky-server, whose faults the live page changes instead of the demo's own; only with --config, which leads to that upstream")
	fs.StringVar(&o.page.Traces, "traces", "", "`URL` of a Jaeger, or any URL with {id}, to link calls on the live page to their traces")
	fs.StringVar(&o.file, "config", "", "YAML `FILE` with the client's routes and policies, instead of the demo's own; SIGHUP reloads it")
	fs.StringVar(&o.client, "listen", "127.0.0.1:8080", "`ADDR` of the client")
	fs.StringVar(&o.clientAdmin, "admin", "127.0.0.1:8081", "`ADDR` of the client's admin port")
	fs.StringVar(&o.flaky, "flaky-listen", shippedUpstream, "`ADDR` of flaky-server")
	fs.StringVar(&o.flakyAdmin, "flaky-admin", "127.0.0.1:5001", "`ADDR` of flaky-server's admin port")
	return o
}

// check checks the addresses and the live page.
func (o *options) check() error {
	for _, addr := range []string{o.client, o.clientAdmin, o.flaky, o.flakyAdmin} {
		if err := onLoopback(addr); err != nil {
			return err
		}
	}
	if err := o.page.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	if o.page.Faults != "" && o.file == "" {
		return errors.New("--faults: needs --config with routes to the upstream whose faults these are")
	}
	return nil
}

func (o *options) checkFaults() error {
	for _, r := range []struct {
		flag  string
		value float64
	}{{"error-rate", o.spec.ErrorRate}, {"reset-rate", o.spec.ResetRate}, {"hang-rate", o.spec.HangRate}} {
		if !(r.value >= 0 && r.value <= 1) { // also NaN
			return fmt.Errorf("--%s: expected a rate from 0 to 1, got %v", r.flag, r.value)
		}
	}
	if err := o.spec.Validate(); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	return nil
}

// endpoints returns how many endpoints each upstream has.
func (o *options) endpoints() int {
	if o.file != "" {
		return 1 // the file names the first endpoint only
	}
	return endpoints
}

// traffic returns the generator, and sets its rate in o if the flag does not.
func (o *options) traffic(fs *flag.FlagSet) (*page.Generator, error) {
	if o.file != "" {
		given := false
		fs.Visit(func(f *flag.Flag) { given = given || f.Name == "traffic" })
		if !given {
			o.perSecond = 0 // the file may lead to a real upstream
		}
	}
	traffic, err := page.NewGenerator(o.perSecond, o.endpoints()-1, drainTimeout)
	if err != nil {
		return nil, fmt.Errorf("--traffic: %w", err)
	}
	return traffic, nil
}

// load reads the client's configuration, again for a reload.
func (o *options) load() (gateway.Config, error) {
	cfg := gateway.DefaultConfig()
	if o.file != "" {
		err := config.Load(o.file, &cfg)
		return cfg, err
	}
	err := config.Decode("rebound.yaml", policyFile, &cfg)
	return cfg, err
}

// reload returns what SIGHUP does: nil without a file.
func (o *options) reload(client *app.Client, traffic *page.Generator) func() {
	if o.file == "" {
		return nil
	}
	return func() {
		refused := true
		client.Reload(func() (gateway.Config, error) {
			cfg, err := o.load()
			refused = err != nil
			return cfg, err
		})
		if !refused {
			traffic.Forget() // the routes may lead to another upstream now
		}
	}
}

// ways are the upstreams of the calls with the client and without it, and their admin port.
type ways struct {
	with, without *upstream
	admin         serve.Listener
	adminAddr     string
}

// open opens the addresses of the upstreams before the client is made. They may have port 0, and
// the routes and the page name their real ports.
func (o *options) open(ctx context.Context, p cli.Program, ready *serve.Readiness, logger *slog.Logger, traffic *page.Generator) (w ways, err error) {
	p.Environ = nil // the client warns about unused variables
	for _, side := range []struct {
		to    **upstream
		first serve.Listener
	}{
		{&w.with, serve.Listener{Name: "flaky-server", Addr: o.flaky, Flag: "--flaky-listen"}},
		{&w.without, serve.Listener{Name: "the upstream without the client", Addr: "127.0.0.1:0"}},
	} {
		if *side.to, err = newUpstream(ctx, p, o.spec, o.seed, ready, logger, traffic, o.endpoints(), side.first); err != nil {
			return w, err
		}
	}
	l, addr, err := serve.Open(ctx, serve.Listener{
		Name: "flaky-server's admin", Addr: o.flakyAdmin, Flag: "--flaky-admin", Handler: twins(w.with.Admin, w.without.Admin, traffic.Forget),
	})
	if err != nil {
		return w, errOpen{err}
	}
	w.admin, w.adminAddr = l, addr.String()
	return w, nil
}

// livePage returns the page that shows these ways.
func (o *options) livePage(w ways, traffic *page.Generator) app.LivePage {
	shown := o.page
	if shown.Faults == "" {
		shown.Faults = "http://" + w.adminAddr
	}
	shown.Traffic, shown.Listen = traffic, o.client
	shown.Tour = !o.noTour && o.file == "" // it is about the demo's own policy and endpoints
	return shown
}
