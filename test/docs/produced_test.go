package docs_test

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/rebound-dev/rebound/internal/app"
	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/flakyapp"
	"github.com/rebound-dev/rebound/internal/serve"
	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/fetch"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/faults"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// produced is what client and flaky-server showed of a few calls.
type produced struct {
	metrics    map[string]*metric
	attributes map[string]bool  // of exported spans, only those with our prefix
	seen       map[string]*line // of the log, by message
}

type metric struct {
	name, kind, help string
	labels           []string
}

type line struct {
	message, level string
	keys           []string // in order
}

// produce runs both programs as their commands compose them. Their collector keeps what it gets,
// and answers with an error.
func produce(t *testing.T) *produced {
	t.Helper()
	var exported, lines output.Buffer
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(&exported, r.Body)
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	log := telemetry.StartLog(&lines, slog.LevelDebug)
	logger := log.Logger
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	injector, err := faults.New(faults.Spec{FailFirst: 2}, 1)
	must(err)
	ready := serve.NewReadiness()
	upstream, err := flakyapp.New(t.Context(), cli.Program{Name: "flaky-server", LookupEnv: os.LookupEnv}, injector, "docs", ready, logger)
	must(err)
	flakyData, addr, err := serve.Open(t.Context(), serve.Listener{Name: "flaky-server", Addr: "127.0.0.1:0", Handler: upstream.Data})
	must(err)
	clientData, own, err := serve.Open(t.Context(), serve.Listener{Name: "client", Addr: "127.0.0.1:0"})
	must(err)
	cfg := gateway.DefaultConfig()
	fragile := cfg.Policies[gateway.DefaultPolicyName]
	fragile.Breaker.ConsecutiveFailures = 1
	cfg.Policies["fragile"] = fragile
	pair := gateway.DefaultUpstream("http://pair")
	pair.Endpoints.Resolve, pair.Endpoints.Addresses = endpoint.ResolveStatic, []string{addr.String(), "127.0.0.1:1"}
	pair.Endpoints.Eject.ConsecutiveFailures = 1
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	secure := gateway.DefaultUpstream("https://" + addr.String())
	secure.TLS.CAFile = caFile
	must(os.WriteFile(caFile, authority(t), 0o600))
	cfg.Upstreams = map[string]gateway.Upstream{"pair": pair, "secure": secure}
	cfg.Routes = []gateway.Route{
		{Name: "secure", Match: "/secure", Upstream: "secure", Policy: gateway.DefaultPolicyName},
		{Name: "pair", Match: "/pair", Upstream: "pair", Policy: gateway.DefaultPolicyName},
		{Name: "process", Match: "/process", Upstream: "http://" + addr.String(), Policy: gateway.DefaultPolicyName},
		{Name: "nobody", Match: "/nobody", Upstream: "http://127.0.0.1:1", Policy: "fragile"},
		{Name: "loop", Match: "/loop", Upstream: "http://" + own.String(), Policy: gateway.DefaultPolicyName},
	}
	client, err := app.NewClient(t.Context(), cli.Program{Name: "client", LookupEnv: os.LookupEnv}, cfg, ready, logger, app.LivePage{})
	must(err)

	must(os.WriteFile(caFile, []byte("no certificate"), 0o600))
	clientData.Handler = client.Data
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	p := &produced{metrics: map[string]*metric{}, attributes: map[string]bool{}, seen: map[string]*line{}}
	run(t, ctx, serve.Config{
		Data:  []serve.Listener{clientData, flakyData},
		Admin: []serve.Listener{{Name: "admin", Addr: "127.0.0.1:0", Handler: client.Admin}, {Name: "flaky's admin", Addr: "127.0.0.1:0", Handler: upstream.Admin}},
		Flush: func(ctx context.Context) error { return errors.Join(client.Flush(ctx), upstream.Flush(ctx)) },
	}, logger, ready, func(urls map[string]string) {
		defer stop()
		answer(t, http.MethodGet, urls["client"]+"/process", "")
		answer(t, http.MethodGet, urls["client"]+"/nobody", "")
		for range 20 { // one endpoint of the two refuses connections
			answer(t, http.MethodGet, urls["client"]+"/pair", "")
		}
		answer(t, http.MethodGet, urls["client"]+"/nowhere", "")
		answer(t, http.MethodGet, urls["client"]+"/loop", "")
		callRPC(t, urls["client"]+"/process")
		for range 2 { // a wrong file is refused the second time that it is read
			time.Sleep(1100 * time.Millisecond)
			answer(t, http.MethodGet, urls["client"]+"/secure", "")
		}
		answer(t, http.MethodPatch, urls["flaky's admin"]+"/faults", "errorRate: 0")
		client.Reload(func() (gateway.Config, error) { return gateway.Config{}, errors.New("unreadable") })
		client.Reload(func() (gateway.Config, error) { return cfg, nil })
		for _, admin := range []string{"admin", "flaky's admin"} {
			p.addMetrics(t, answer(t, http.MethodGet, urls[admin]+"/metrics", ""))
		}
	})
	// A stop with a call that hangs, and with a flush that fails.
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	hang := func(_ http.ResponseWriter, r *http.Request) {
		stop()
		<-r.Context().Done()
	}
	run(t, ctx, serve.Config{
		Data:  []serve.Listener{{Name: "data", Addr: "127.0.0.1:0", Handler: http.HandlerFunc(hang)}},
		Flush: func(context.Context) error { return errors.New("nobody there") },
	}, logger, serve.NewReadiness(), func(urls map[string]string) {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, urls["data"], nil)
		if resp, err := http.DefaultClient.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	})

	for _, key := range regexp.MustCompile(`rebound\.[a-z_.]+[a-z]`).FindAllString(exported.String(), -1) {
		p.attributes[key] = true
	}
	log.Close()
	for text := range strings.Lines(lines.String()) {
		if l := lineOf(t, text); p.seen[l.message] == nil {
			p.seen[l.message] = l
		}
	}
	return p
}

// authority returns the certificate of a test server, in PEM.
func authority(t *testing.T) []byte {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// run serves until ctx ends. It calls use with the URLs.
func run(t *testing.T, ctx context.Context, c serve.Config, logger *slog.Logger, ready *serve.Readiness, use func(map[string]string)) { //nolint:revive // t first, as everywhere in tests
	t.Helper()
	c.Logger = logger
	c.DrainTimeout, c.FlushTimeout = func() time.Duration { return 10 * time.Millisecond }, 5*time.Second
	done := make(chan struct{})
	err := serve.Run(ctx, c, ready, func(addrs map[string]net.Addr) {
		urls := map[string]string{}
		for name, a := range addrs {
			urls[name] = serve.URL(a)
		}
		go func() { defer close(done); use(urls) }()
	})
	<-done
	if err != nil {
		t.Fatal(err)
	}
}

func (p *produced) addMetrics(t *testing.T, text string) {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Error(err)
		return
	}
	for name, f := range families {
		if !strings.HasPrefix(name, "rebound_") && !strings.HasPrefix(name, "http_") && !strings.HasPrefix(name, "rpc_") {
			continue // the runtime's and the process's own
		}
		m := &metric{name: name, kind: strings.ToLower(f.GetType().String()), help: f.GetHelp()}
		for _, series := range f.GetMetric() {
			for _, l := range series.GetLabel() {
				if !slices.Contains(m.labels, l.GetName()) {
					m.labels = append(m.labels, l.GetName())
				}
			}
		}
		slices.Sort(m.labels)
		if old := p.metrics[name]; old == nil || len(old.labels) < len(m.labels) {
			p.metrics[name] = m
		}
	}
}

// callRPC makes a call of gRPC's kind. What answers it need not speak gRPC.
func callRPC(t *testing.T, url string) {
	t.Helper()
	h2c := &http.Transport{Protocols: new(http.Protocols)}
	h2c.Protocols.SetUnencryptedHTTP2(true)
	defer h2c.CloseIdleConnections()
	r := fetch.Request(t, http.MethodPost, url, http.NoBody)
	r.Header.Set("Content-Type", "application/grpc")
	if _, _, err := fetch.Read((&http.Client{Transport: h2c}).Do(r)); err != nil {
		t.Error(err)
	}
}

// answer returns the body of a response. Goroutines may call it.
func answer(t *testing.T, method, url, body string) string {
	t.Helper()
	_, text, err := fetch.Try(t.Context(), method, url, body)
	if err != nil {
		t.Errorf("%s %s: %v", method, url, err)
	}
	return text
}
