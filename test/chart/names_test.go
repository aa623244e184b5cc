package chart_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	strictyaml "go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// hash returns what takes the place of the end of a long name.
func hash(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:8] }

func TestNames(t *testing.T) {
	for name, tc := range map[string]struct {
		release, override, prefix string
		label                     string // nameOverride, which changes no name
	}{
		"called like the chart":  {"rebound", "", "", ""},
		"of another label":       {"rebound", "", "", "edge"},
		"called like the label":  {"edge", "", "edge-", "edge"},
		"named as it was before": {"rebound", "rebound", "rebound-", "edge"},
		"another release":        {"try", "", "try-", ""},
		"of a given name":        {"rebound", "second", "second-", ""},
		"the chart's name":       {"try", "rebound", "rebound-", ""},
		"a word of YAML's":       {"true", "", "true-", ""},
		"YAML's nothing":         {"null", "", "null-", ""},
		"an old word of YAML's":  {"y", "", "y-", ""},
		"a given word of YAML's": {"try", "yes", "yes-", ""},
		"the longest whole name": {strings.Repeat("x", 41), "", strings.Repeat("x", 41) + "-", ""},
		"a long name":            {strings.Repeat("x", 53), "", strings.Repeat("x", 32) + "-" + hash(strings.Repeat("x", 53)) + "-", ""},
		"a long name, cut at a dash": {strings.Repeat("x", 31) + "-" + strings.Repeat("y", 20), "",
			strings.Repeat("x", 31) + "-" + hash(strings.Repeat("x", 31)+"-"+strings.Repeat("y", 20)) + "-", ""},
		"the longest given name": {"try", strings.Repeat("x", 41), strings.Repeat("x", 41) + "-", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, tc.release, map[string]any{
				"fullnameOverride": tc.override, "nameOverride": tc.label, "jaeger": map[string]any{"enabled": true}, "networkPolicy": parse(t, "{enabled: true, adminFrom: [{podSelector: {}}]}"),
				"serviceMonitor": map[string]any{"enabled": true}, "prometheusRule": map[string]any{"enabled": true},
			})
			checkSelectors(t, r)
			checkReferences(t, r)
			for _, component := range []string{"client", "flaky-server", "jaeger"} {
				if find[*appsv1.Deployment](r, tc.prefix+component) == nil || find[*corev1.Service](r, tc.prefix+component) == nil {
					t.Errorf("got no Deployment or no Service %s%s, want both", tc.prefix, component)
				}
			}
			c := clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0]
			if got, want := variable(c, "OTEL_EXPORTER_OTLP_ENDPOINT"), "http://"+tc.prefix+"jaeger:4318"; got != want {
				t.Errorf("traces go to %q, want %q", got, want)
			}
			if got, want := variable(c, "OTEL_RESOURCE_ATTRIBUTES"), "k8s.deployment.name="+tc.prefix+"client,"; !strings.Contains(got, want) {
				t.Errorf("the resource is %q, want %q in it", got, want)
			}
			if got, want := r.tests[0].(*corev1.Pod).Spec.Containers[0].Args[1], "http://"+tc.prefix+"client:8080/process"; got != want {
				t.Errorf("the test calls %q, want %q", got, want)
			}
			checkNames(t, r)
		})
	}
	for name, release := range map[string]string{"a digit": "2nd", "a dot": "v1.rebound"} {
		t.Run(name, func(t *testing.T) {
			if _, err := render(t, release, nil); err == nil || !strings.Contains(err.Error(), "set fullnameOverride") {
				t.Errorf("release %s: got %v, want advice", release, err)
			}
			mustRender(t, release, map[string]any{"fullnameOverride": "a"})
		})
	}
}

func variable(c corev1.Container, name string) string {
	for _, v := range c.Env {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}

// The chart replaces the host flaky-server by the one of this release, and changes no other host.
func TestUpstreamOfThisRelease(t *testing.T) {
	for upstream, want := range map[string]string{
		"http://flaky-server:5000":         "http://try-flaky-server:5000",
		"http://flaky-server":              "http://try-flaky-server",
		"https://flaky-server/a":           "https://try-flaky-server/a",
		"h2c://flaky-server:5000":          "h2c://try-flaky-server:5000",
		"h2c://flaky-server-headless:5000": "h2c://try-flaky-server-headless:5000",
		"http://flaky-server.other:5000":   "http://flaky-server.other:5000",
		"http://flaky-server-2:5000":       "http://flaky-server-2:5000",
		"http://other/http://flaky-server": "http://other/http://flaky-server",
	} {
		t.Run(upstream, func(t *testing.T) {
			r := mustRender(t, "try", map[string]any{"config": map[string]any{
				"routes": []any{
					map[string]any{"name": "a", "match": "/", "upstream": upstream},
					map[string]any{"name": "b", "match": "/b", "upstream": "entry"},
				},
				"upstreams": map[string]any{"entry": map[string]any{"url": upstream}},
			}})
			var c configuration
			if err := yaml.Unmarshal([]byte(clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"]), &c); err != nil {
				t.Fatal(err)
			}
			if c.Routes[0].Upstream != want {
				t.Errorf("got %s, want %s", c.Routes[0].Upstream, want)
			}
			if got := c.Upstreams["entry"].URL; got != want || c.Routes[1].Upstream != "entry" {
				t.Errorf("the entry has %s, want %s; its route has %s", got, want, c.Routes[1].Upstream)
			}
		})
	}
}

// Traces go to the user's endpoint, then to Jaeger's, and by default nowhere.
func TestTraces(t *testing.T) {
	for name, tc := range map[string]struct{ values, endpoint, protocol string }{
		"nowhere":       {"{}", "", ""},
		"Jaeger":        {"jaeger: {enabled: true}", "http://jaeger:4318", "http/protobuf"},
		"by gRPC":       {"{jaeger: {enabled: true}, otel: {protocol: grpc}}", "http://jaeger:4317", "grpc"},
		"the user's":    {"{jaeger: {enabled: true}, otel: {endpoint: 'https://a:1/x'}}", "https://a:1/x", "http/protobuf"},
		"only an other": {"otel: {endpoint: 'http://a'}", "http://a", "http/protobuf"},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, tc.values))
			for _, component := range []string{"client", "flaky-server"} {
				c := find[*appsv1.Deployment](r, component).Spec.Template.Spec.Containers[0]
				if e, p := variable(c, "OTEL_EXPORTER_OTLP_ENDPOINT"), variable(c, "OTEL_EXPORTER_OTLP_PROTOCOL"); e != tc.endpoint || p != tc.protocol {
					t.Errorf("%s sends to %q by %q, want %q by %q", component, e, p, tc.endpoint, tc.protocol)
				}
				// A variable can refer only to variables before it.
				for _, m := range regexp.MustCompile(`\$\((\w+)\)`).FindAllStringSubmatch(variable(c, "OTEL_RESOURCE_ATTRIBUTES"), -1) {
					at := func(name string) int {
						return slices.IndexFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == name })
					}
					if i := at(m[1]); i < 0 || i > at("OTEL_RESOURCE_ATTRIBUTES") {
						t.Errorf("%s: %s comes too late, want it before OTEL_RESOURCE_ATTRIBUTES", component, m[1])
					}
				}
			}
		})
	}
}

// Any attribute of the resource arrives as it is: the variable is percent-encoded, and its parts
// are divided by commas.
func TestResourceAttributes(t *testing.T) {
	want := map[string]string{"percent": "100%", "encoded": "%41", "list": "a, b=c", "blank": " a b ", "quoted": `a "b" \\ 'c'`}
	attributes := map[string]any{}
	for key, value := range want {
		attributes[key] = value
	}
	r := mustRender(t, "rebound", map[string]any{"otel": map[string]any{"resourceAttributes": attributes}})
	for _, component := range []string{"client", "flaky-server"} {
		text := variable(find[*appsv1.Deployment](r, component).Spec.Template.Spec.Containers[0], "OTEL_RESOURCE_ATTRIBUTES")
		got := map[string]string{}
		for pair := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(pair, "=")
			value, err := url.PathUnescape(strings.TrimSpace(value))
			if err != nil {
				t.Errorf("%s of %s: %v", key, component, err)
			}
			if _, ours := want[key]; ours {
				got[key] = value
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s has %q, want %q, by\n%s", component, got, want, text)
		}
	}
}

// A user's variable replaces the chart's.
func TestVariableOfTheUser(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, `
jaeger: {enabled: true}
client: {extraEnv: [{name: OTEL_EXPORTER_OTLP_ENDPOINT, value: "http://mine"}, {name: A, value: b}]}
`))
	c := clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0]
	seen := map[string]bool{}
	for _, v := range c.Env {
		if seen[v.Name] {
			t.Errorf("%s is there twice, want it once", v.Name)
		}
		seen[v.Name] = true
	}
	if variable(c, "OTEL_EXPORTER_OTLP_ENDPOINT") != "http://mine" || variable(c, "A") != "b" || variable(c, "OTEL_RESOURCE_ATTRIBUTES") == "" {
		t.Errorf("got environment %v, want the values' variables beside the resource attributes", c.Env)
	}
}

// A label that is set for all pods and for one kind appears once, with the more specific value.
func TestLabels(t *testing.T) {
	values := `
commonLabels: {a: common, b: common, c: common, d: common, e: common}
client: {podLabels: {a: client, b: ""}, podAnnotations: {x: w}}
flakyServer: {podLabels: {c: "true"}, podAnnotations: {checksum/faults: mine, x: w}}
serviceMonitor: {enabled: true, labels: {d: monitor}}
prometheusRule: {enabled: true, labels: {e: rule}}
`
	r := mustRender(t, "try", parse(t, values))
	for _, m := range r.manifests {
		// Helm's own decoder accepts a key that appears twice.
		if err := strictyaml.Unmarshal([]byte(m.Content), new(any)); err != nil {
			t.Errorf("%s: %v\n%s", m.Name, err, m.Content)
		}
	}
	client, server := find[*appsv1.Deployment](r, "try-client"), find[*appsv1.Deployment](r, "try-flaky-server")
	for name, tc := range map[string]struct {
		got  map[string]string
		want string
	}{
		"pods of the client":        {client.Spec.Template.Labels, "a=client b= c=common"},
		"pods of flaky-server":      {server.Spec.Template.Labels, "a=common b=common c=true"},
		"Deployment":                {client.Labels, "a=common b=common c=common"},
		"ServiceMonitor":            {all[*monitoringv1.ServiceMonitor](r)[0].Labels, "a=common d=monitor e=common"},
		"PrometheusRule":            {all[*monitoringv1.PrometheusRule](r)[0].Labels, "a=common d=common e=rule"},
		"annotations of the client": {client.Spec.Template.Annotations, "x=w"},
		"annotations of the server": {server.Spec.Template.Annotations, "x=w"},
	} {
		for _, want := range strings.Fields(tc.want) {
			key, value, _ := strings.Cut(want, "=")
			if got, ok := tc.got[key]; !ok || got != value {
				t.Errorf("%s: %s is %q, want %q", name, key, got, value)
			}
		}
		if tc.got["checksum/faults"] == "mine" {
			t.Errorf("%s: got annotations %v, want a checksum that changes with the faults", name, tc.got)
		}
	}
}

// Whatever the values are, `helm test` calls a URL that exists and answers. flaky-server has only
// /process.
func TestTest(t *testing.T) {
	const (
		own      = "config: {routes: [{name: a, match: %s, upstream: '%s'}]}\n"
		external = "client: {service: {type: NodePort, admin: false}}\n"
		alone    = "flakyServer: {enabled: false}\n"
	)
	mine := fmt.Sprintf(own, "/orders", "http://orders:8080")
	for name, tc := range map[string]struct{ values, want string }{
		"by default":                     {"{}", "http://client:8080/process"},
		"on another port":                {"client: {service: {port: 80}}", "http://client:80/process"},
		"from outside":                   {external, "http://client:8080/process"},
		"own upstream":                   {alone + mine, "http://client:8081/readyz"},
		"own upstream, from outside":     {alone + mine + external, "http://client-metrics:8081/readyz"},
		"no Service has the port":        {alone + mine + "client: {service: {admin: false}, metricsService: {enabled: false}}", ""},
		"over TLS":                       {"client: {tls: {secretName: a}}", "http://client:8081/readyz"},
		"over TLS of one's own":          {"config: {listener: {tls: {certFile: /a, keyFile: /b}}}", "http://client:8081/readyz"},
		"own routes beside flaky-server": {mine, "http://client:8081/readyz"},
		"the same, from outside":         {mine + external, "http://client-metrics:8081/readyz"},
		"a page that it lacks":           {fmt.Sprintf(own, "GET /other", "http://flaky-server:5000"), "http://client:8081/readyz"},
		"a path before it":               {fmt.Sprintf(own, "GET /process", "http://flaky-server:5000/base"), "http://client:8081/readyz"},
		"a port that it lacks":           {fmt.Sprintf(own, "/process", "http://flaky-server"), "http://client:8081/readyz"},
		"another method":                 {fmt.Sprintf(own, "POST /process", "http://flaky-server:5000"), "http://client:8081/readyz"},
		"any method":                     {fmt.Sprintf(own, "/process", "http://flaky-server:5000"), "http://client:8080/process"},
		"a page of another's":            {fmt.Sprintf(own, "/process", "http://flaky-server.first:5000"), "http://client:8081/readyz"},
		"a given path":                   {alone + mine + external + "test: {path: /orders}", "http://client:8080/orders"},
		"none":                           {"test: {enabled: false, path: /process}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, tc.values+"\nnetworkPolicy: {enabled: true}"))
			got := ""
			if len(r.tests) > 0 {
				got = r.tests[0].(*corev1.Pod).Spec.Containers[0].Args[1]
			}
			if got != tc.want {
				t.Errorf("it calls %q, want %q", got, tc.want)
			}
			if strings.Contains(r.notes, "helm test") != (got != "") {
				t.Errorf("the notes name helm test: %t, want %t:\n%s", strings.Contains(r.notes, "helm test"), got != "", r.notes)
			}
			u, err := url.Parse(got)
			if err != nil {
				t.Fatal(err)
			}
			if s := find[*corev1.Service](r, u.Hostname()); got != "" && !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return fmt.Sprint(p.Port) == u.Port() }) {
				t.Errorf("the Service has no port %s, want it", u.Port())
			}
		})
	}
}

// The policies admit everyone to the routes unless the values say otherwise. They admit only the
// peers in the values to the admin ports, and the test.
func TestNetworkPolicies(t *testing.T) {
	const (
		everybody = "*"
		test      = "app.kubernetes.io/component=test,app.kubernetes.io/instance=rebound,app.kubernetes.io/name=rebound"
		client    = "app.kubernetes.io/component=client,app.kubernetes.io/instance=rebound,app.kubernetes.io/name=rebound"
		ours      = "app.kubernetes.io/instance=rebound,app.kubernetes.io/name=rebound"
	)
	const buttons = "client: {faultControls: true}\n"
	for name, tc := range map[string]struct {
		values string
		want   map[string]string // policy and port: who
	}{
		"nobody is named": {"networkPolicy: {}", map[string]string{
			"client http": everybody + " " + test, "client admin": test,
			"flaky-server http": client, "jaeger otlp-grpc": ours, "jaeger otlp-http": ours,
		}},
		"somebody is named": {"networkPolicy: {from: [{podSelector: {matchLabels: {a: b}}}], adminFrom: [{podSelector: {matchLabels: {c: d}}}]}", map[string]string{
			"client http": "a=b " + test, "client admin": test + " c=d",
			"flaky-server http": client, "flaky-server admin": "c=d",
			"jaeger otlp-grpc": ours, "jaeger otlp-http": ours, "jaeger query": "c=d",
		}},
		"the live page's buttons": {buttons + "networkPolicy: {}", map[string]string{
			"client http": everybody + " " + test, "client admin": test,
			"flaky-server http": client, "flaky-server admin": client, "jaeger otlp-grpc": ours, "jaeger otlp-http": ours,
		}},
		"the buttons, and somebody": {buttons + "networkPolicy: {adminFrom: [{podSelector: {matchLabels: {c: d}}}]}", map[string]string{
			"client http": everybody + " " + test, "client admin": test + " c=d",
			"flaky-server http": client, "flaky-server admin": client + " c=d",
			"jaeger otlp-grpc": ours, "jaeger otlp-http": ours, "jaeger query": "c=d",
		}},
		// The page had buttons that no policy let through.
		"for development": {read(t, "helm/rebound/values-dev.yaml") + "\nnetworkPolicy: {}", map[string]string{
			"client http": everybody + " " + test, "client admin": test,
			"flaky-server http": client, "flaky-server admin": client, "jaeger otlp-grpc": ours, "jaeger otlp-http": ours,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			values := parse(t, tc.values)
			values["jaeger"] = map[string]any{"enabled": true}
			values["networkPolicy"].(map[string]any)["enabled"] = true
			got := map[string]string{}
			for _, n := range all[*networkingv1.NetworkPolicy](mustRender(t, "rebound", values)) {
				if !slices.Equal(n.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
					t.Errorf("%s is about %v, want ingress only", n.Name, n.Spec.PolicyTypes)
				}
				for _, rule := range n.Spec.Ingress {
					who := everybody
					if len(rule.From) > 0 {
						who = labels.FormatLabels(rule.From[0].PodSelector.MatchLabels)
					}
					for _, p := range rule.Ports {
						at := n.Name + " " + p.Port.String()
						got[at] = strings.TrimSpace(got[at] + " " + who)
					}
				}
			}
			if !maps.Equal(got, tc.want) {
				t.Errorf("got\n%v\nwant\n%v", got, tc.want)
			}
		})
	}
	for name, tc := range map[string]struct {
		values string
		want   []string // component and port
	}{
		"egress": {"{}", []string{
			"* 53", "* 53", "* 5353", "* 5353", "flaky-server 5000", "jaeger 4317", "jaeger 4318", "* 443",
		}},
		"egress of the buttons": {buttons, []string{
			"* 53", "* 53", "* 5353", "* 5353", "flaky-server 5000", "flaky-server 5001", "jaeger 4317", "jaeger 4318", "* 443",
		}},
		"egress for development": {read(t, "helm/rebound/values-dev.yaml"), []string{
			"* 53", "* 53", "* 5353", "* 5353", "flaky-server 5000", "flaky-server 5001", "jaeger 4317", "jaeger 4318", "* 443",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			values := parse(t, tc.values)
			values["jaeger"] = map[string]any{"enabled": true}
			values["networkPolicy"] = parse(t, "{enabled: true, egress: [{ports: [{port: 443}]}]}")
			var got []string
			for _, rule := range find[*networkingv1.NetworkPolicy](mustRender(t, "rebound", values), "client").Spec.Egress {
				to := everybody
				if len(rule.To) > 0 {
					to = rule.To[0].PodSelector.MatchLabels["app.kubernetes.io/component"]
				}
				for _, p := range rule.Ports {
					got = append(got, to+" "+p.Port.String())
				}
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("the client may go to %q, want %q", got, tc.want)
			}
		})
	}
}

// The live page's buttons change this release's flaky-server, whatever the release is called. By
// its bare name, the page once changed another release's.
func TestFaultControls(t *testing.T) {
	const on = "client: {faultControls: true}\n"
	dev := read(t, "helm/rebound/values-dev.yaml")
	for name, tc := range map[string]struct {
		release, values string
		want            []string // the arguments
	}{
		"off":                          {"try", "{}", nil},
		"on":                           {"rebound", on, []string{"--faults=http://flaky-server:5001"}},
		"another release":              {"try", on, []string{"--faults=http://try-flaky-server:5001"}},
		"of a given name":              {"rebound", on + "fullnameOverride: second", []string{"--faults=http://second-flaky-server:5001"}},
		"beside other flags":           {"try", "client: {faultControls: true, extraArgs: [--traces=http://a]}", []string{"--faults=http://try-flaky-server:5001", "--traces=http://a"}},
		"one elsewhere":                {"try", "client: {extraArgs: ['--faults=http://flaky-server.other:5001']}", []string{"--faults=http://flaky-server.other:5001"}},
		"by the name that it has":      {"rebound", "client: {extraArgs: ['--faults=http://flaky-server:5001']}", []string{"--faults=http://flaky-server:5001"}},
		"for development":              {"rebound", dev, []string{"--faults=http://flaky-server:5001", "--traces=http://localhost:16686"}},
		"for development, by any name": {"rebound", dev + "\nfullnameOverride: second", []string{"--faults=http://second-flaky-server:5001", "--traces=http://localhost:16686"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, tc.release, parse(t, tc.values))
			got := slices.DeleteFunc(slices.Clone(clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0].Args), func(a string) bool {
				return strings.HasPrefix(a, "--config=") || strings.HasPrefix(a, "--drain-delay=")
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("the client runs with %q, want %q", got, tc.want)
			}
			checkReferences(t, r)
			if buttons := strings.Contains(tc.values, "faultControls: true"); strings.Contains(r.notes, "buttons") != buttons {
				t.Errorf("the notes tell of buttons: %v, want %v:\n%s", !buttons, buttons, r.notes)
			}
		})
	}
}

// A browser follows a link to a trace, and a browser does not find Services. The link's address is
// therefore the port to which the notes forward this release's Jaeger.
func TestLinksToTraces(t *testing.T) {
	dev := readValues(t, chartDir+"/values-dev.yaml")
	for _, releaseName := range []string{"rebound", "try"} {
		t.Run(releaseName, func(t *testing.T) {
			r := mustRender(t, releaseName, dev)
			for _, a := range clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0].Args {
				address, ok := strings.CutPrefix(a, "--traces=")
				if !ok {
					continue
				}
				u, err := url.Parse(address)
				if err != nil {
					t.Fatal(err)
				}
				jaeger := all[*corev1.Service](r)[slices.IndexFunc(all[*corev1.Service](r), func(s *corev1.Service) bool {
					return s.Labels["app.kubernetes.io/component"] == "jaeger"
				})]
				if forward := fmt.Sprintf("port-forward service/%s %s\n", jaeger.Name, u.Port()); u.Hostname() != "localhost" || !strings.Contains(r.notes, forward) {
					t.Errorf("links lead to %s, want %q in the notes:\n%s", address, forward, r.notes)
				}
				return
			}
			t.Error("calls have no links to their traces, want them")
		})
	}
}

// The commands in the notes name objects and ports of this installation.
func TestNotes(t *testing.T) {
	forward := regexp.MustCompile(`kubectl --namespace somewhere port-forward (service|deployment)/(\S+) (\d+)(?::(\d+))?\n`)
	logs := regexp.MustCompile(`kubectl --namespace somewhere logs deployment/(\S+)\n`)
	for name, values := range scenarios(t) {
		for _, releaseName := range []string{"rebound", "try"} {
			t.Run(name+"/"+releaseName, func(t *testing.T) {
				r := mustRender(t, releaseName, values)
				local := map[string]bool{}
				found := forward.FindAllStringSubmatch(r.notes, -1)
				known := len(found)
				for _, m := range logs.FindAllStringSubmatch(r.notes, -1) {
					known++
					if find[*appsv1.Deployment](r, m[1]) == nil {
						t.Errorf("got no deployment %s, whose logs the notes show, want it", m[1])
					}
				}
				if known != strings.Count(r.notes, "kubectl") || len(found) < 2 {
					t.Errorf("got a kubectl command that this test does not know, want only known ones:\n%s", r.notes)
				}
				for _, m := range found {
					remote := m[4]
					if remote == "" {
						remote = m[3]
					}
					local[m[3]] = true
					n, _ := strconv.Atoi(remote)
					port := int32(n)
					switch m[1] {
					case "service":
						if s := find[*corev1.Service](r, m[2]); s == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == port }) {
							t.Errorf("got no port %s of service %s, want it", remote, m[2])
						}
					case "deployment":
						if d := find[*appsv1.Deployment](r, m[2]); d == nil || !slices.ContainsFunc(d.Spec.Template.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.ContainerPort == port }) {
							t.Errorf("got no port %s of deployment %s, want it", remote, m[2])
						}
					}
				}
				for _, m := range regexp.MustCompile(`localhost:(\d+)`).FindAllStringSubmatch(r.notes, -1) {
					if !local[m[1]] {
						t.Errorf("nothing forwards localhost:%s, want a port-forward", m[1])
					}
				}
				if !strings.Contains(r.notes, "helm uninstall "+releaseName+" --namespace somewhere\n") || strings.Contains(r.notes, "helm test") != (len(r.tests) > 0) {
					t.Errorf("the notes do not say how to test or remove the release, want both:\n%s", r.notes)
				}
				if strings.Contains(r.notes, "<no value>") || strings.Contains(r.notes, "\n\n\n") {
					t.Errorf("the notes have a gap, want none:\n%s", r.notes)
				}
			})
		}
	}
}

// The chart's alerts are those of deploy/, unchanged by the template.
func TestPrometheusRule(t *testing.T) {
	r := mustRender(t, "rebound", map[string]any{"prometheusRule": map[string]any{"enabled": true}})
	for _, m := range r.manifests {
		if m.Head.Kind != "PrometheusRule" {
			continue
		}
		var rule struct{ Spec any }
		var file any
		if err := yaml.Unmarshal([]byte(m.Content), &rule); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(read(t, "deploy/prometheus/rules.yaml")), &file); err != nil {
			t.Fatal(err)
		}
		got, _ := yaml.Marshal(rule.Spec)
		want, _ := yaml.Marshal(file)
		if string(got) != string(want) {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		return
	}
	t.Error("got no PrometheusRule, want one")
}

// The commands of the notes speak TLS exactly where the data port does, also the one for gRPC.
func TestNotesOfTLS(t *testing.T) {
	const grpc = "config: {routes: [{name: page, match: 'GET /process', upstream: 'http://flaky-server:5000'}, {name: grpc, match: 'POST /{service}/{method}', upstream: 'h2c://flaky-server:5000'}]}\n"
	for name, tc := range map[string]struct {
		values string
		secure bool
	}{
		"plain":                    {grpc, false},
		"a Secret":                 {grpc + "client: {tls: {secretName: edge}}", true},
		"a certificate":            {grpc + "client: {tls: {certificate: {enabled: true, issuerRef: {name: a}}}}", true},
		"files of its own volumes": {strings.Replace(grpc, "{routes", "{listener: {tls: {certFile: /a, keyFile: /b}}, routes", 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			notes := mustRender(t, "rebound", parse(t, tc.values)).notes
			want := []string{"curl -i localhost:8080/process\n", "grpcurl -plaintext localhost:8080 rebound.flaky.v1.Flaky/Process\n"}
			if tc.secure {
				want = []string{"curl -i -k https://localhost:8080/process\n", "grpcurl -insecure localhost:8080 rebound.flaky.v1.Flaky/Process\n"}
			}
			for _, command := range want {
				if !strings.Contains(notes, command) {
					t.Errorf("got\n%s\nwant %s in it", notes, command)
				}
			}
		})
	}
}
