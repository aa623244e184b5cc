package telemetry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/net/http/httpguts"

	"github.com/rebound-dev/rebound/internal/nethttp"
)

// Variable describes one of OpenTelemetry's environment variables, or a few with the same meaning.
type Variable struct {
	Names    []string // a name that ends with * is a prefix
	Meaning  string   // its values, or why it has no effect
	Honoured bool     // whether it has an effect; if so, invalid values are errors, otherwise it is in the warning
	check    func(environment, string) error
	exact    bool // the SDK does not trim spaces from its value
}

// Variables returns all known variables, in the order of the documentation.
func Variables() []Variable {
	honoured := func(check func(environment, string) error, meaning string, names ...string) Variable {
		return Variable{Names: names, Meaning: meaning, Honoured: true, check: check}
	}
	otlp := func(check func(environment, string) error, meaning string, suffix string) Variable {
		return honoured(check, meaning, prefixOTLP+suffix, prefixTraces+suffix)
	}
	exact := func(check func(environment, string) error, meaning string, names ...string) Variable {
		return Variable{Names: names, Meaning: meaning, Honoured: true, check: check, exact: true}
	}
	without := func(meaning string, names ...string) Variable { return Variable{Names: names, Meaning: meaning} }
	return []Variable{
		honoured(boolean, "true: no traces, and all other variables are unread. /metrics stays", varDisabled),
		honoured(oneOf(exporterOTLP, exporterConsole, none), "otlp, console or none; otlp (unset) with an endpoint, otherwise none", varTracesExporter),
		honoured(propagators, "a comma-separated list of tracecontext, baggage, b3, b3multi, jaeger, xray and ottrace, or none; tracecontext,baggage (unset)", varPropagators),
		honoured(anything, "the name of the service; the program's name (unset)", "OTEL_SERVICE_NAME"),
		honoured(attributes, "further attributes of the service: comma-separated key=value pairs; other characters of a value as %2C", "OTEL_RESOURCE_ATTRIBUTES"),

		otlp(endpoint, "the collector, such as http://otel-collector:4318; https is encrypted. grpc needs a port, and also takes otel-collector:4317, dns: and unix:. Only the first variable adds /v1/traces to the path. With OTEL_TRACES_EXPORTER=otlp alone it is port 4318 of localhost, for grpc 4317", "ENDPOINT"),
		otlp(oneOf(protocolHTTP, protocolJSON, protocolGRPC), "http/protobuf (unset), http/json or grpc", "PROTOCOL"),
		otlp(headers, "headers of every export: comma-separated key=value pairs; other characters of a value as %2C", "HEADERS"),
		otlp(number(0), "milliseconds for an export and its retries; 10000 (unset), 0 for no limit", "TIMEOUT"),
		otlp(oneOf("gzip", none), "gzip or none (unset)", "COMPRESSION"),
		otlp(boolean, "true: no encryption to a grpc endpoint that has neither http nor https", "INSECURE"),
		otlp(certificates, "a PEM file of the CAs that sign the collector's certificate; the system's (unset)", "CERTIFICATE"),
		otlp(keyPair, "a PEM file of our own certificate, for collectors that ask for one; needs the key", "CLIENT_CERTIFICATE"),
		otlp(keyPair, "a PEM file of its key; needs the certificate", "CLIENT_KEY"),

		honoured(oneOf("always_on", "always_off", samplerRatio, "parentbased_always_on", "parentbased_always_off", samplerParentRatio),
			"always_on, always_off, traceidratio, parentbased_always_on (unset), parentbased_always_off or parentbased_traceidratio", varSampler),
		honoured(ratio, "the share of traces for traceidratio and parentbased_traceidratio, 0 to 1; 1 (unset)", varSamplerArg),
		exact(number(1), "milliseconds between two exports; 5000 (unset)", "OTEL_BSP_SCHEDULE_DELAY"),
		exact(number(0), "milliseconds for the export of a batch; 30000 (unset), 0 for no limit", "OTEL_BSP_EXPORT_TIMEOUT"),
		exact(number(1), "the largest number of queued spans; 2048 (unset). Further spans are dropped", varQueue),
		exact(batch, "the largest number of spans in one export, at most the queue size; 512 (unset)", varBatch),
		exact(number(-1), "the longest value of an attribute; -1 (unset) for no limit", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
		exact(number(-1), "the number of attributes of a span; 128 (unset), -1 for no limit", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
		exact(number(-1), "the number of events or links of a span, or of attributes of one of those; 128 (unset), -1 for no limit",
			"OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"),

		honoured(oneOf("prometheus", none, exporterOTLP, exporterConsole), "prometheus or none; neither changes /metrics. otlp and console have no effect", varMetricsExporter),
		honoured(oneOf("always_on", "always_off", "trace_based"), "the measurements that get an exemplar: always_on, always_off or trace_based (unset)", "OTEL_METRICS_EXEMPLAR_FILTER"),
		honoured(oneOf(none, exporterOTLP, exporterConsole), "none. otlp and console have no effect", varLogsExporter),

		without("no configuration file of OpenTelemetry's is read", "OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE"),
		without("the level of the log is --log-level", "OTEL_LOG_LEVEL"),
		without("metrics are scraped from /metrics, on the address that --admin gives", "OTEL_EXPORTER_OTLP_METRICS_*", "OTEL_METRIC_EXPORT_*", "OTEL_EXPORTER_PROMETHEUS_*"),
		without("logs go to the standard error stream", "OTEL_EXPORTER_OTLP_LOGS_*", "OTEL_BLRP_*", "OTEL_LOGRECORD_*"),
		without("profiles are at /debug/pprof/", "OTEL_EXPORTER_OTLP_PROFILES_*"),
		without("there is no such exporter here", "OTEL_EXPORTER_JAEGER_*", "OTEL_EXPORTER_ZIPKIN_*"),
		without("old names of OTEL_EXPORTER_OTLP_INSECURE", "OTEL_EXPORTER_OTLP_SPAN_INSECURE", "OTEL_EXPORTER_OTLP_METRIC_INSECURE"),
		without("only the stable semantic conventions are used", "OTEL_SEMCONV_STABILITY_OPT_IN"),
		without("experiments of OpenTelemetry's SDK are not supported", "OTEL_GO_X_*", "OTEL_EXPERIMENTAL_*"),
	}
}

const (
	prefixOTLP   = "OTEL_EXPORTER_OTLP_"
	prefixTraces = "OTEL_EXPORTER_OTLP_TRACES_"

	varDisabled        = "OTEL_SDK_DISABLED"
	varTracesExporter  = "OTEL_TRACES_EXPORTER"
	varMetricsExporter = "OTEL_METRICS_EXPORTER"
	varLogsExporter    = "OTEL_LOGS_EXPORTER"
	varPropagators     = "OTEL_PROPAGATORS"
	varSampler         = "OTEL_TRACES_SAMPLER"
	varSamplerArg      = "OTEL_TRACES_SAMPLER_ARG"
	varQueue           = "OTEL_BSP_MAX_QUEUE_SIZE"
	varBatch           = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"

	none               = "none"
	exporterOTLP       = "otlp"
	exporterConsole    = "console"
	protocolHTTP       = "http/protobuf"
	protocolJSON       = "http/json"
	protocolGRPC       = "grpc"
	samplerRatio       = "traceidratio"
	samplerParentRatio = "parentbased_traceidratio"
)

// environment returns the value of a variable, and whether it is set.
type environment func(string) (string, bool)

// text returns the trimmed value of a variable, or "" if it is not set.
func (e environment) text(name string) string {
	v, _ := e(name)
	return strings.TrimSpace(v)
}

// word returns a value in lower case, since OpenTelemetry ignores the case of such values.
func (e environment) word(name string) string { return strings.ToLower(e.text(name)) }

// otlp returns the value of the variable for traces, or else of the one for all signals. It also
// returns that variable's name.
func (e environment) otlp(suffix string) (name, value string) {
	if v := e.text(prefixTraces + suffix); v != "" {
		return prefixTraces + suffix, v
	}
	return prefixOTLP + suffix, e.text(prefixOTLP + suffix)
}

func (e environment) protocol() string {
	_, protocol := e.otlp("PROTOCOL")
	return cmp.Or(strings.ToLower(protocol), protocolHTTP)
}

func (e environment) disabled() bool { return e.word(varDisabled) == "true" }

// exporter returns the name of the exporter for spans, or none.
func (e environment) exporter() string {
	exporter := e.word(varTracesExporter)
	_, collector := e.otlp("ENDPOINT")
	switch {
	case e.disabled():
		return none
	case exporter == "" && collector == "":
		return none
	}
	return cmp.Or(exporter, exporterOTLP)
}

// check returns an error that lists all invalid values. It skips variables that another variable
// makes meaningless.
func (e environment) check() error {
	var errs []error
	for _, v := range Variables() {
		for _, name := range v.Names {
			value := e.text(name)
			if v.check == nil || value == "" || e.off(name) {
				continue
			}
			if raw, _ := e(name); v.exact {
				value = raw
			}
			if err := v.check(e, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// off reports whether another variable makes this one meaningless.
func (e environment) off(name string) bool {
	switch name {
	case varDisabled:
		return false
	case varTracesExporter, varPropagators, varMetricsExporter, varLogsExporter, "OTEL_METRICS_EXEMPLAR_FILTER":
		return e.disabled()
	}
	suffix, otlp := strings.CutPrefix(name, prefixOTLP)
	return e.disabled() || e.word(varTracesExporter) == none || otlp && e.text(prefixTraces+suffix) != ""
}

// serviceLink reports whether Kubernetes or Docker sets such a variable for a service whose name
// begins with otel.
func serviceLink(name string) bool {
	return regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`).MatchString(name)
}

// ineffective returns the variables that are set but have no effect, each with the reason. all has
// the form of [os.Environ].
func (e environment) ineffective(all []string) (found []string) {
	if e.disabled() {
		return nil
	}
	known := Variables()
	for _, kv := range all {
		name, value, _ := strings.Cut(kv, "=")
		// Manifests use OTEL_RESOURCE_ATTRIBUTES_* to build OTEL_RESOURCE_ATTRIBUTES.
		if !strings.HasPrefix(name, "OTEL_") || strings.TrimSpace(value) == "" || serviceLink(name) || strings.HasPrefix(name, "OTEL_RESOURCE_ATTRIBUTES_") {
			continue
		}
		if why := e.whyIneffective(name, known); why != "" {
			found = append(found, name+": "+why)
		}
	}
	slices.Sort(found)
	return found
}

func (e environment) whyIneffective(name string, known []Variable) string {
	// An exact name has precedence over a prefix.
	i := slices.IndexFunc(known, func(v Variable) bool { return slices.Contains(v.Names, name) })
	if i < 0 {
		i = slices.IndexFunc(known, func(v Variable) bool {
			return slices.ContainsFunc(v.Names, func(n string) bool {
				family, ok := strings.CutSuffix(n, "*")
				return ok && strings.HasPrefix(name, family)
			})
		})
	}
	exports := strings.HasPrefix(name, prefixOTLP) || strings.HasPrefix(name, "OTEL_BSP_") || strings.HasPrefix(name, varSampler)
	switch {
	case i < 0:
		return "there is no such variable here"
	case !known[i].Honoured:
		return known[i].Meaning
	case name == varMetricsExporter && e.word(name) != none && e.word(name) != "prometheus":
		return "metrics are scraped from /metrics; set prometheus or none"
	case name == varLogsExporter && e.word(name) != none:
		return "logs go to the standard error stream; set none"
	case exports && e.word(varTracesExporter) == "" && e.exporter() == none:
		return "no traces are exported without " + prefixOTLP + "ENDPOINT or " + varTracesExporter
	case strings.HasPrefix(name, prefixOTLP) && e.exporter() == exporterConsole:
		return "traces go to the console"
	case name == varSamplerArg && e.exporter() != none && e.word(varSampler) != samplerRatio && e.word(varSampler) != samplerParentRatio:
		return varSampler + " is not one that takes a ratio"
	}
	return ""
}

func anything(environment, string) error { return nil }

// expected returns an error about a value. It shows at most 100 bytes of the value.
func expected(what, value string) error {
	if len(value) > 100 {
		value = strings.ToValidUTF8(value[:100], "") + "…"
	}
	return fmt.Errorf("must be %s, got %q", what, value)
}

func oneOf(words ...string) func(environment, string) error {
	return func(_ environment, value string) error {
		if slices.Contains(words, strings.ToLower(value)) {
			return nil
		}
		last := len(words) - 1
		return expected(strings.Join(words[:last], ", ")+" or "+words[last], value)
	}
}

func boolean(e environment, value string) error { return oneOf("true", "false")(e, value) }

// number checks an integer. Its upper limit is safe, since the SDK multiplies milliseconds by a
// million.
func number(least int) func(environment, string) error {
	return func(_ environment, value string) error {
		if n, err := strconv.Atoi(value); err != nil || n < least || n > math.MaxInt32 {
			return expected(fmt.Sprintf("a whole number from %d to %d", least, math.MaxInt32), value)
		}
		return nil
	}
}

func ratio(e environment, value string) error {
	if sampler := e.word(varSampler); sampler != samplerRatio && sampler != samplerParentRatio {
		return nil // with other samplers the argument has no effect
	}
	if r, err := strconv.ParseFloat(value, 64); err != nil || !(r >= 0 && r <= 1) { // false for NaN
		return expected("a number from 0 to 1", value)
	}
	return nil
}

func batch(e environment, value string) error {
	if err := number(1)(e, value); err != nil {
		return err
	}
	queue, err := strconv.Atoi(cmp.Or(e.text(varQueue), "2048"))
	if n, _ := strconv.Atoi(value); err == nil && queue > 0 && n > queue {
		return expected(fmt.Sprintf("at most the %d spans of the queue (%s)", queue, varQueue), value)
	}
	return nil
}

func propagators(_ environment, value string) error {
	_, err := newPropagator(value)
	return err
}

// newPropagator returns the propagator for a comma-separated list of names.
func newPropagator(names string) (propagation.TextMapPropagator, error) {
	if names == "" {
		names = "tracecontext,baggage"
	}
	var list []string
	for name := range strings.SplitSeq(names, ",") {
		list = append(list, strings.ToLower(strings.TrimSpace(name)))
	}
	all := []string{"tracecontext", "baggage", "b3", "b3multi", "jaeger", "xray", "ottrace", none}
	for _, name := range list {
		if !slices.Contains(all, name) {
			return nil, expected("a comma-separated list of "+strings.Join(all[:len(all)-1], ", ")+", or none", names)
		}
	}
	return autoprop.TextMapPropagator(list...)
}

func attributes(_ environment, value string) error {
	for pair := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(pair, "=")
		if !ok || strings.TrimSpace(key) == "" {
			return expected("comma-separated key=value pairs", value)
		}
		if _, err := url.PathUnescape(strings.TrimSpace(v)); err != nil {
			return fmt.Errorf("the value of %s must be percent-encoded: %w", strings.TrimSpace(key), err)
		}
	}
	return nil
}

// headers checks headers. Its errors never show a value, since it may be a secret.
func headers(_ environment, value string) error {
	for pair := range strings.SplitSeq(value, ",") {
		key, v, ok := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !ok || !httpguts.ValidHeaderFieldName(key) {
			return errors.New("must be comma-separated key=value pairs whose keys are header names; one is not")
		}
		v, err := url.PathUnescape(v)
		if err != nil || !httpguts.ValidHeaderFieldValue(strings.TrimSpace(v)) {
			return fmt.Errorf("the value of %s must be percent-encoded and have no control characters", key)
		}
	}
	return nil
}

func endpoint(e environment, value string) error {
	grpc := e.protocol() == protocolGRPC
	wanted := "a URL such as http://otel-collector:4318"
	if grpc {
		wanted = "an address such as http://otel-collector:4317 or otel-collector:4317"
	}
	wrong := func(why string) error {
		if strings.Contains(value, "@") { // the value may contain a password
			return fmt.Errorf("must be %s: %s", wanted, why)
		}
		return fmt.Errorf("%w: %s", expected(wanted, value), why)
	}
	if grpc && hostPort(value) {
		return nil
	}
	const scheme = "the scheme must be http or https"
	u, err := url.Parse(value)
	switch {
	case !strings.Contains(value, "://") && !grpc, err != nil && !strings.Contains(value, "://"):
		return wrong(scheme)
	case err != nil:
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err
		}
		return wrong(err.Error())
	case grpc && (u.Scheme == "unix" || u.Scheme == "dns"):
		return nil
	case u.User != nil:
		return wrong("user and password belong into " + prefixOTLP + "HEADERS")
	case u.Scheme != "http" && u.Scheme != "https":
		return wrong(scheme)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return wrong("it must end with the path")
	case grpc && strings.Trim(u.Path, "/") != "":
		return wrong("grpc has no path")
	}
	if err := nethttp.CheckHost(u); err != nil {
		return wrong(err.Error())
	}
	if grpc && u.Port() == "" {
		return wrong("grpc needs the port")
	}
	return nil
}

// hostPort reports whether value has the form host:port.
func hostPort(value string) bool {
	host, port, err := net.SplitHostPort(value)
	if _, notNumber := strconv.Atoi(port); notNumber != nil {
		return false
	}
	return err == nil && nethttp.CheckHost(&url.URL{Host: net.JoinHostPort(host, port)}) == nil
}

func certificates(_ environment, file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("must be a file of certificates: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return expected("a file of certificates as PEM", file)
	}
	return nil
}

// keyPair checks a client certificate and its key. It runs for both variables, but reports a bad
// pair only for the certificate. Both variables must have the same prefix.
func keyPair(e environment, file string) error {
	for _, prefix := range []string{prefixOTLP, prefixTraces} {
		certificate, key := e.text(prefix+"CLIENT_CERTIFICATE"), e.text(prefix+"CLIENT_KEY")
		switch {
		case certificate != file && (certificate != "" || key != file):
		case certificate == "" || key == "":
			return fmt.Errorf("%[1]sCLIENT_CERTIFICATE and %[1]sCLIENT_KEY need each other", prefix)
		default:
			if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
				return fmt.Errorf("must be the file of a certificate as PEM, with its key in %sCLIENT_KEY: %w", prefix, err)
			}
		}
	}
	return nil
}
