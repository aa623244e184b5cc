package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/rebound-dev/rebound/internal/telemetry"
)

// refusal returns the error of Start with these variables. It also sets them in the process's
// environment, since the SDK reads that.
func refusal(t *testing.T, vars map[string]string) error {
	t.Helper()
	setenv(t, vars)
	tel, err := telemetry.Start(t.Context(), telemetry.Options{Service: "client", LookupEnv: os.LookupEnv})
	if err == nil {
		if err := flush(t, tel, patience); err != nil {
			t.Log(err)
		}
	}
	return err
}

const (
	otlpEndpoint   = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	otlpProtocol   = "OTEL_EXPORTER_OTLP_PROTOCOL"
)

func TestInvalidEndpoints(t *testing.T) {
	const scheme, host, path = "the scheme must be http or https", "the host must be a name", "it must end with the path"
	for endpoint, want := range map[string]struct{ http, grpc string }{ // "" if the endpoint is valid
		"http://127.0.0.1:1":               {},
		"HTTPS://127.0.0.1:1":              {},
		"http://[::1]:1":                   {},
		"127.0.0.1:4318":                   {http: scheme},
		"localhost:4318":                   {http: scheme},
		"[::1]:4318":                       {http: scheme},
		"otel-collector.ns.svc:4318":       {http: scheme},
		"localhost:4318/v1/traces":         {scheme, scheme},
		"localhost":                        {scheme, scheme},
		"/v1/traces":                       {scheme, scheme},
		"grpc://127.0.0.1:1":               {scheme, scheme},
		"localhost:http":                   {scheme, scheme},
		"http://":                          {"there is no host", "there is no host"},
		"http://$(HOST):4318":              {host, host},
		"$(HOST):4318":                     {scheme, scheme},
		"http://a,b:4318":                  {host, host},
		"http://collector:70000":           {"the port must be from 1 to 65535", "the port must be from 1 to 65535"},
		"collector:70000":                  {scheme, scheme},
		"http://collector:4318?x=1":        {path, path},
		"http://collector:4318#x":          {path, path},
		"http://127.0.0.1:1/custom/path":   {"", "grpc has no path"},
		"http://127.0.0.1":                 {"", "grpc needs the port"},
		"http://me:secret@collector:4318":  {"belong into OTEL_EXPORTER_OTLP_HEADERS", "belong into OTEL_EXPORTER_OTLP_HEADERS"},
		"me:secret@collector:4318":         {scheme, scheme},
		"http://me:secret@collector:43 18": {"invalid", "invalid"},
		"dns:///127.0.0.1:1":               {http: scheme},
		"unix:/nowhere.sock":               {http: scheme},
	} {
		for variable, others := range map[string]map[string]string{
			otlpEndpoint: {}, tracesEndpoint: {otlpEndpoint: "http://127.0.0.1:1"}, // the specific variable takes precedence
		} {
			for protocol, want := range map[string]string{"": want.http, "http/protobuf": want.http, "GRPC": want.grpc} {
				t.Run(variable+"="+endpoint+" "+protocol, func(t *testing.T) {
					vars := map[string]string{variable: endpoint, otlpProtocol: protocol}
					for k, v := range others {
						vars[k] = v
					}
					err := refusal(t, vars)
					switch {
					case want == "" && err != nil:
						t.Errorf("got error %v, want none", err)
					case want != "" && (err == nil || !strings.HasPrefix(err.Error(), variable+": must be ") || !strings.Contains(err.Error(), want)):
						t.Errorf("got error %v, want one that begins with %s: and contains %q", err, variable, want)
					case err != nil && strings.Contains(err.Error(), "secret"):
						t.Errorf("got error %v, want one without the password", err)
					}
				})
			}
		}
	}
}

// Start rejects an invalid value of every variable, and the error names the variable.
func TestEveryVariableIsChecked(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.pem")
	bad := map[string][]string{
		"OTEL_SDK_DISABLED":                      {"1", "yes"},
		"OTEL_TRACES_EXPORTER":                   {"pigeon", "zipkin", "otlp,console"},
		"OTEL_PROPAGATORS":                       {"pigeon", "tracecontext,pigeon", ","},
		"OTEL_RESOURCE_ATTRIBUTES":               {"pigeon", "a=b,c", "=b", "a=%zz", "a=b,"},
		"OTEL_TRACES_SAMPLER":                    {"pigeon", "0.1", "parentbased_jaeger_remote"},
		"OTEL_TRACES_SAMPLER_ARG":                {"pigeon", "-0.1", "1.1", "NaN", "10%"},
		"OTEL_BSP_SCHEDULE_DELAY":                {"-3", "0", "5s", " 5", "99999999999"},
		"OTEL_BSP_EXPORT_TIMEOUT":                {"-3", "pigeon"},
		"OTEL_BSP_MAX_QUEUE_SIZE":                {"-3", "0", "2k", "1.5"},
		"OTEL_BSP_MAX_EXPORT_BATCH_SIZE":         {"-3", "0", "pigeon", "2049"},
		"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": {"-3", "pigeon"},
		"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT":      {"-3", "pigeon"},
		"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT":        {"-3", "pigeon"},
		"OTEL_ATTRIBUTE_COUNT_LIMIT":             {"-3", "pigeon"},
		"OTEL_SPAN_EVENT_COUNT_LIMIT":            {"-3", "pigeon"},
		"OTEL_SPAN_LINK_COUNT_LIMIT":             {"-3", "pigeon"},
		"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT":       {"-3", "pigeon"},
		"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT":        {"-3", "pigeon"},
		"OTEL_METRICS_EXPORTER":                  {"pigeon"},
		"OTEL_METRICS_EXEMPLAR_FILTER":           {"pigeon"},
		"OTEL_LOGS_EXPORTER":                     {"pigeon"},
	}
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"} {
		for suffix, values := range map[string][]string{
			"ENDPOINT":           {"pigeon"},
			"PROTOCOL":           {"pigeon", "http"},
			"HEADERS":            {"pigeon", "a=b,c", "=pigeon", "a b=pigeon", "a=%zzpigeon", "a=x%0apigeon"},
			"TIMEOUT":            {"-3", "10s"},
			"COMPRESSION":        {"zstd"},
			"INSECURE":           {"1"},
			"CERTIFICATE":        {missing, empty},
			"CLIENT_CERTIFICATE": {missing},
			"CLIENT_KEY":         {missing},
		} {
			bad[prefix+suffix] = values
		}
	}
	for _, v := range telemetry.Variables() {
		for _, name := range v.Names {
			if v.Honoured && name != "OTEL_SERVICE_NAME" && bad[name] == nil { // OTEL_SERVICE_NAME may have any value
				t.Errorf("this test has no invalid value for %s, want one", name)
			}
		}
	}
	for name, values := range bad {
		for _, value := range values {
			t.Run(name+"="+filepath.Base(value), func(t *testing.T) {
				vars := map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio"}
				if name != otlpEndpoint {
					vars[tracesEndpoint] = "http://127.0.0.1:1"
				}
				vars[name] = value
				err := refusal(t, vars)
				if err == nil || !strings.HasPrefix(err.Error(), name+": ") || strings.Contains(err.Error(), "\n") {
					t.Errorf("got error %v, want one line about %s", err, name)
				}
				if err != nil && strings.HasSuffix(name, "HEADERS") && strings.Contains(err.Error(), "pigeon") {
					t.Errorf("got error %v, want one without the header, which may be a secret", err)
				}
				// If the SDK is disabled, other variables may be invalid.
				vars["OTEL_SDK_DISABLED"] = "true"
				if err := refusal(t, vars); name != "OTEL_SDK_DISABLED" && err != nil {
					t.Errorf("OTEL_SDK_DISABLED=true: got error %v, want none", err)
				}
			})
		}
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	err := refusal(t, map[string]string{otlpEndpoint: "localhost:4318", "OTEL_BSP_MAX_QUEUE_SIZE": "-3", "OTEL_TRACES_SAMPLER": "pigeon"})
	want := `OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL such as http://otel-collector:4318, got "localhost:4318": the scheme must be http or https
OTEL_TRACES_SAMPLER: must be always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio, got "pigeon"
OTEL_BSP_MAX_QUEUE_SIZE: must be a whole number from 1 to 2147483647, got "-3"`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// Spans arrive with every accepted combination of endpoint and protocol.
func TestSpansArrive(t *testing.T) {
	for name, vars := range map[string]map[string]string{
		"grpc, host:port":                       {otlpEndpoint: "ADDRESS", otlpProtocol: "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
		"grpc, localhost:port":                  {tracesEndpoint: "localhost:PORT", otlpProtocol: "grpc", "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "True"},
		"grpc, dns":                             {otlpEndpoint: "dns:///ADDRESS", otlpProtocol: "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
		"grpc, the scheme counts more":          {otlpEndpoint: "http://ADDRESS", otlpProtocol: "grpc", "OTEL_EXPORTER_OTLP_INSECURE": "false"},
		"http, the scheme counts more":          {otlpEndpoint: "http://ADDRESS", "OTEL_EXPORTER_OTLP_INSECURE": "false"},
		"http, with spaces":                     {otlpEndpoint: " http://ADDRESS ", otlpProtocol: " HTTP/Protobuf "},
		"http/json":                             {otlpEndpoint: "http://ADDRESS", otlpProtocol: "HTTP/JSON"},
		"the traces' own protocol and endpoint": {otlpEndpoint: "localhost:1", otlpProtocol: "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", tracesEndpoint: "http://ADDRESS/v1/traces"},
	} {
		t.Run(name, func(t *testing.T) {
			collector := newOTLPServer(t)
			collector.open(t)
			_, port, _ := strings.Cut(collector.address, ":")
			for k, v := range vars {
				vars[k] = strings.NewReplacer("ADDRESS", collector.address, "PORT", port).Replace(v)
			}
			setenv(t, vars)
			tel := start(t, nil)
			endSpans(tel, "arrives", 1)
			if err := flush(t, tel, patience); err != nil {
				t.Error(err)
			}
			if got := collector.took("arrives"); got != 1 {
				t.Errorf("got %d spans, want 1", got)
			}
		})
	}
}

func TestExportRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		vars                                map[string]string
		path, encoding, contentType, secret string
	}{
		"a base":       {map[string]string{otlpEndpoint: "URL/base/"}, "/base/v1/traces", "", "application/x-protobuf", ""},
		"as it is":     {map[string]string{tracesEndpoint: "URL/own"}, "/own", "", "application/x-protobuf", ""},
		"compressed":   {map[string]string{otlpEndpoint: "URL", "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"}, "/v1/traces", "gzip", "application/x-protobuf", ""},
		"JSON":         {map[string]string{otlpEndpoint: "URL", otlpProtocol: "http/json"}, "/v1/traces", "", "application/json", ""},
		"with headers": {map[string]string{otlpEndpoint: "URL", "OTEL_EXPORTER_OTLP_HEADERS": "X-Secret=a%2Cb"}, "/v1/traces", "", "application/x-protobuf", "a,b"},
		"encrypted, whatever INSECURE says": {map[string]string{otlpEndpoint: "TLS", "OTEL_EXPORTER_OTLP_INSECURE": "true", "OTEL_EXPORTER_OTLP_CERTIFICATE": "CA"},
			"/v1/traces", "", "application/x-protobuf", ""},
	} {
		t.Run(name, func(t *testing.T) {
			requests := make(chan *http.Request, 1)
			take := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				requests <- r
			})
			plain, encrypted := httptest.NewServer(take), httptest.NewTLSServer(take)
			t.Cleanup(plain.Close)
			t.Cleanup(encrypted.Close)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: encrypted.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			for k, v := range tc.vars {
				tc.vars[k] = strings.NewReplacer("URL", plain.URL, "TLS", encrypted.URL, "CA", ca).Replace(v)
			}
			setenv(t, tc.vars)
			tel := start(t, nil)
			endSpans(tel, "x", 1)
			if err := flush(t, tel, patience); err != nil {
				t.Fatal(err)
			}
			r := await(t, "the export", requests)
			if r.URL.Path != tc.path || r.Header.Get("Content-Encoding") != tc.encoding || r.Header.Get("Content-Type") != tc.contentType ||
				r.Header.Get("X-Secret") != tc.secret || (r.TLS != nil) != strings.Contains(name, "encrypted") {
				t.Errorf("got path %s, header %v, TLS %t, want path %s, encoding %q, type %s, secret %q, TLS %t", r.URL.Path, r.Header, r.TLS != nil,
					tc.path, tc.encoding, tc.contentType, tc.secret, strings.Contains(name, "encrypted"))
			}
		})
	}
}

func TestPropagators(t *testing.T) {
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: 1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled}) // ottrace carries only the low half of a trace id
	member, err := baggage.NewMember("k", "v")
	if err != nil {
		t.Fatal(err)
	}
	bag, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	for names, want := range map[string][]string{
		"":                     {"Baggage", "Traceparent"},
		"tracecontext,baggage": {"Baggage", "Traceparent"},
		" TraceContext ":       {"Traceparent"},
		"baggage":              {"Baggage"},
		"b3":                   {"B3"},
		"b3multi":              {"X-B3-Sampled", "X-B3-Spanid", "X-B3-Traceid"},
		"jaeger":               {"Uber-Trace-Id"},
		"xray":                 {"X-Amzn-Trace-Id"},
		"ottrace":              {"Ot-Tracer-Sampled", "Ot-Tracer-Spanid", "Ot-Tracer-Traceid"},
		"tracecontext, b3":     {"B3", "Traceparent"},
		"none":                 nil,
		"tracecontext,none":    nil,
	} {
		t.Run(names, func(t *testing.T) {
			setenv(t, map[string]string{"OTEL_PROPAGATORS": names, otlpEndpoint: "http://127.0.0.1:1"})
			tel := start(t, nil)
			t.Cleanup(func() { _ = flush(t, tel, patience) })
			header := http.Header{}
			ctx := baggage.ContextWithBaggage(trace.ContextWithSpanContext(t.Context(), span), bag)
			tel.Propagator().Inject(ctx, propagation.HeaderCarrier(header))
			var got []string
			for name := range header {
				if !strings.HasPrefix(name, "Ot-Baggage") {
					got = append(got, name)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			// The server's span continues the trace of a request with these headers.
			if names == "" || want == nil || names == "baggage" {
				return
			}
			r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", nil)
			r.Header = header
			var came trace.SpanContext
			tel.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { came = trace.SpanContextFromContext(r.Context()) })).
				ServeHTTP(httptest.NewRecorder(), r)
			if came.TraceID() != span.TraceID() {
				t.Errorf("got trace %s, want %s from the request", came.TraceID(), span.TraceID())
			}
		})
	}
}

// One warning names all variables that are set but have no effect.
func TestOneWarningForVariablesWithoutEffect(t *testing.T) {
	const collector = otlpEndpoint + "=http://127.0.0.1:1"
	const noMetrics, noLogs = "metrics are scraped from /metrics; set prometheus or none", "logs go to the standard error stream; set none"
	for name, tc := range map[string]struct {
		environ []string
		want    []string
	}{
		"nothing": {[]string{"PATH=/bin", "OTEL_TRACES_EXPORTER=", "REBOUND_LISTEN=:1"}, nil},
		"all honoured": {[]string{collector, "OTEL_PROPAGATORS=b3", "OTEL_METRICS_EXPORTER=Prometheus", "OTEL_LOGS_EXPORTER=none", "OTEL_SERVICE_NAME=x",
			"OTEL_TRACES_SAMPLER=traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.5", "OTEL_BSP_MAX_QUEUE_SIZE=1000"}, nil},
		"no metrics at all": {[]string{collector, "OTEL_METRICS_EXPORTER=none"}, nil},
		"metrics and logs":  {[]string{collector, "OTEL_METRICS_EXPORTER=otlp", "OTEL_LOGS_EXPORTER=otlp"}, []string{"OTEL_LOGS_EXPORTER: " + noLogs, "OTEL_METRICS_EXPORTER: " + noMetrics}},
		"to the console":    {[]string{"OTEL_METRICS_EXPORTER=console"}, []string{"OTEL_METRICS_EXPORTER: " + noMetrics}},
		"files":             {[]string{"OTEL_CONFIG_FILE=/x", "OTEL_EXPERIMENTAL_CONFIG_FILE=/y"}, []string{"OTEL_CONFIG_FILE: no configuration file of OpenTelemetry's is read", "OTEL_EXPERIMENTAL_CONFIG_FILE: no configuration file of OpenTelemetry's is read"}},
		"families": {[]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=x", "OTEL_EXPORTER_JAEGER_ENDPOINT=x"}, []string{
			"OTEL_EXPORTER_JAEGER_ENDPOINT: there is no such exporter here", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT: metrics are scraped from /metrics, on the address that --admin gives"}},
		"a slip":                        {[]string{collector, "OTEL_EXPORTER_OTLP_ENDPONT=http://x"}, []string{"OTEL_EXPORTER_OTLP_ENDPONT: there is no such variable here"}},
		"the level":                     {[]string{"OTEL_LOG_LEVEL=debug"}, []string{"OTEL_LOG_LEVEL: the level of the log is --log-level"}},
		"a sampler's argument":          {[]string{collector, "OTEL_TRACES_SAMPLER=always_on", "OTEL_TRACES_SAMPLER_ARG=0.5"}, []string{"OTEL_TRACES_SAMPLER_ARG: OTEL_TRACES_SAMPLER is not one that takes a ratio"}},
		"no endpoint":                   {[]string{"OTEL_EXPORTER_OTLP_HEADERS=a=secret"}, []string{"OTEL_EXPORTER_OTLP_HEADERS: no traces are exported without OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER"}},
		"traces on the console":         {[]string{"OTEL_TRACES_EXPORTER=console", collector}, []string{otlpEndpoint + ": traces go to the console"}},
		"switched off":                  {[]string{"OTEL_SDK_DISABLED=true", "OTEL_LOGS_EXPORTER=otlp"}, nil},
		"traces switched off":           {[]string{"OTEL_TRACES_EXPORTER=none", collector}, nil},
		"what Kubernetes says of peers": {[]string{"OTEL_COLLECTOR_SERVICE_HOST=1", "OTEL_COLLECTOR_SERVICE_PORT=1", "OTEL_COLLECTOR_SERVICE_PORT_HTTP=1", "OTEL_COLLECTOR_PORT=tcp://1", "OTEL_COLLECTOR_PORT_4318_TCP_ADDR=1"}, nil},
		"parts of the attributes":       {[]string{"OTEL_RESOURCE_ATTRIBUTES_POD_NAME=x"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			vars := map[string]string{}
			for _, kv := range tc.environ {
				k, v, _ := strings.Cut(kv, "=")
				vars[k] = v
			}
			setenv(t, vars)
			var log bytes.Buffer
			tel, err := telemetry.Start(t.Context(), telemetry.Options{
				LookupEnv: os.LookupEnv, Environ: func() []string { return tc.environ }, Logger: slog.New(slog.NewJSONHandler(&log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := flush(t, tel, patience); err != nil {
				t.Error(err)
			}
			if tc.want == nil {
				if log.Len() > 0 {
					t.Errorf("got log %s, want it empty", log.String())
				}
				return
			}
			var line struct {
				Level, Msg string
				Variables  []string
			}
			if err := json.Unmarshal(log.Bytes(), &line); err != nil { // fails for more than one line
				t.Fatalf("got log %[2]s, error %[1]v, want one line of JSON", err, log.String())
			}
			if line.Level != "WARN" || line.Msg != "variables of OpenTelemetry's without effect" || !slices.Equal(line.Variables, tc.want) || strings.Contains(log.String(), "secret") {
				t.Errorf("got %+v, want one warning about %q", line, tc.want)
			}
		})
	}
}

// An invalid sampler used to log "traces cannot be exported", although traces were exported. A
// negative queue size used to panic.
func TestErrorNamesTheCause(t *testing.T) {
	for variable, vars := range map[string]map[string]string{
		"OTEL_TRACES_SAMPLER":            {"OTEL_TRACES_SAMPLER": "sometimes"},
		"OTEL_TRACES_SAMPLER_ARG":        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
		"OTEL_RESOURCE_ATTRIBUTES":       {"OTEL_RESOURCE_ATTRIBUTES": "no-value"},
		"OTEL_BSP_MAX_QUEUE_SIZE":        {"OTEL_BSP_MAX_QUEUE_SIZE": "-3"},
		"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "11"},
	} {
		t.Run(variable, func(t *testing.T) {
			vars[otlpEndpoint] = "http://127.0.0.1:1"
			setenv(t, vars)
			var log bytes.Buffer
			_, err := telemetry.Start(t.Context(), telemetry.Options{LookupEnv: os.LookupEnv, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err == nil || !strings.HasPrefix(err.Error(), variable+": must be ") || log.Len() > 0 {
				t.Errorf("got error %v and log %q, want an error that begins %q and an empty log", err, log.String(), variable+": must be ")
			}
		})
	}
}

// Variables lists every variable that the linked SDK and exporters read. The test fails when an
// update of the SDK reads a new one.
func TestTableHasWhatTheSDKReads(t *testing.T) {
	if testing.Short() {
		t.Skip("reads the source of the modules")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{range $f := .GoFiles}}{{$.ImportPath}} {{$.Dir}}/{{$f}}{{"\n"}}{{end}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	var families []string
	for _, v := range telemetry.Variables() {
		for _, name := range v.Names {
			known[name] = true
			if family, ok := strings.CutSuffix(name, "*"); ok {
				families = append(families, family)
			}
		}
	}
	whole := regexp.MustCompile(`"(OTEL_[A-Z0-9_]+)"`)
	suffix := regexp.MustCompile(`envconfig\.With\w+\(\s*"([A-Z_]+)"(?:,\s*"([A-Z_]+)")?|WithEnv\w+\("([A-Z_]+)"`)
	read := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		pkg, path, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(pkg, "go.opentelemetry.io/") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range whole.FindAllSubmatch(source, -1) {
			read[string(m[1])] = true
		}
		for _, m := range suffix.FindAllSubmatch(source, -1) {
			for _, s := range m[1:] {
				if len(s) > 0 {
					read["OTEL_EXPORTER_OTLP_"+string(s)] = true
				}
			}
		}
	}
	for _, must := range []string{otlpEndpoint, tracesEndpoint, "OTEL_TRACES_SAMPLER", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY"} {
		if !read[must] {
			t.Errorf("got no %s in the SDK's source, want it; the test may search the wrong place", must)
		}
	}
	for name := range read {
		if !known[name] && !slices.ContainsFunc(families, func(f string) bool { return strings.HasPrefix(name, f) || name+"_" == f }) && name != "OTEL_EXPORTER_OTLP" {
			t.Errorf("got no %s in Variables, want it since the SDK reads it", name)
		}
	}
}

// A level is one of four words, in any case.
func TestLevelsByName(t *testing.T) {
	for text, want := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "WARN": slog.LevelWarn, "Error": slog.LevelError} {
		var level telemetry.Level
		if err := level.UnmarshalText([]byte(text)); err != nil || level.Level() != want {
			t.Errorf("%s: got %v, error %v, want %v", text, level.Level(), err, want)
		}
		again, err := level.MarshalText()
		if err != nil || string(again) != strings.ToLower(text) {
			t.Errorf("%s: got text %s, error %v, want it in lower case", text, again, err)
		}
	}
	for _, text := range []string{"WARNING", "", "INFO+2", "trace", "4", "err"} {
		var level telemetry.Level
		err := level.UnmarshalText([]byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), "must be debug, info, warn or error, got ") {
			t.Errorf("%q: got error %v, want one that lists the levels", text, err)
		}
	}
}
