package chart_test

import (
	"bytes"
	"fmt"
	"math"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
)

// These hold for all values of an installation.
func TestScenarios(t *testing.T) {
	client := build(t, "client")
	for name, values := range scenarios(t) {
		for _, releaseName := range []string{"rebound", "try"} {
			t.Run(name+"/"+releaseName, func(t *testing.T) {
				lintStrict(t, values)
				r := mustRender(t, releaseName, values)
				checkNames(t, r)
				checkSelectors(t, r)
				checkPodSecurity(t, r)
				checkReferences(t, r)
				checkPorts(t, r)
				checkDrain(t, r, effective(t, client, r))
			})
		}
	}
}

// build builds one of the commands and returns its path.
func build(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(gobuild.Programs(t, root, "./cmd/"+name), name)
}

// configuration is the part of `client --check` that the tests read.
type configuration struct {
	Routes    []struct{ Name, Match, Upstream, Policy string }
	Policies  map[string]struct{ Timeout string }
	Upstreams map[string]struct{ URL string }
}

// effective returns the configuration that the real client makes from the release's ConfigMap.
func effective(t *testing.T, client string, r release) configuration {
	t.Helper()
	text := clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"]
	out, err := check(t, client, text)
	if err != nil {
		t.Fatalf("client refuses its ConfigMap, want it accepted: %v\n%s", err, text)
	}
	var c configuration
	if err := yaml.Unmarshal([]byte(out), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// withMounts returns a configuration that names existing files where it names those of mounted
// Secrets and ConfigMaps.
func withMounts(t *testing.T, configuration string) string {
	t.Helper()
	mounted := regexp.MustCompile(`/etc/rebound-(secret|configmap)s/\S+`)
	if !mounted.MatchString(configuration) {
		return configuration
	}
	dir, authority := t.TempDir(), pki.New(t, "authority")
	cert, key := authority.Issue("orders")
	return mounted.ReplaceAllStringFunc(configuration, func(path string) string {
		content := cert
		if strings.HasSuffix(path, ".key") {
			content = key
		} else if !strings.HasSuffix(path, ".crt") && !strings.HasSuffix(path, ".pem") {
			content = []byte("token")
		}
		file := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	})
}

// check returns what `client --check` prints for a configuration, or its error.
func check(t *testing.T, client, configuration string) (string, error) {
	t.Helper()
	file := files.Temp(t, "rebound.yaml", withMounts(t, configuration))
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), client, "--config", file, "--check")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), nil
}

// clientOf returns the only object of a type that belongs to the client.
func clientOf[T object](t *testing.T, r release) T {
	t.Helper()
	for _, o := range all[T](r) {
		if o.GetLabels()["app.kubernetes.io/component"] == "client" {
			return o
		}
	}
	var none T
	t.Fatalf("got no %T of the client, want one", none)
	return none
}

// pod is a pod or a pod template.
type pod struct {
	name string
	meta metav1.ObjectMeta
	spec corev1.PodSpec
}

func pods(r release) (found []pod) {
	for _, d := range all[*appsv1.Deployment](r) {
		found = append(found, pod{d.Name, d.Spec.Template.ObjectMeta, d.Spec.Template.Spec})
	}
	for _, j := range all[*batchv1.Job](r) {
		found = append(found, pod{j.Name, j.Spec.Template.ObjectMeta, j.Spec.Template.Spec})
	}
	for _, p := range all[*corev1.Pod](r) {
		found = append(found, pod{p.Name, p.ObjectMeta, p.Spec})
	}
	return found
}

func checkNames(t *testing.T, r release) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range r.everything() {
		id := fmt.Sprintf("%T %s", o, o.GetName())
		if seen[id] {
			t.Errorf("got two objects %s, want one", id)
		}
		seen[id] = true
		if problems := validation.IsDNS1035Label(o.GetName()); problems != nil {
			t.Errorf("%s: got name problems %s, want none", id, problems)
		}
		if o.GetNamespace() != "" {
			t.Errorf("%s has the namespace %s, want none", id, o.GetNamespace())
		}
		for _, key := range []string{"name", "instance", "version", "part-of", "managed-by"} {
			if o.GetLabels()["app.kubernetes.io/"+key] == "" {
				t.Errorf("%s has no label app.kubernetes.io/%s, want one", id, key)
			}
		}
		for _, value := range o.GetLabels() {
			if problems := validation.IsValidLabelValue(value); problems != nil {
				t.Errorf("%s: label %q is not valid, want it valid: %s", id, value, problems)
			}
		}
	}
}

// A selector has no label that an upgrade changes, and selects the pods of one component only.
func checkSelectors(t *testing.T, r release) {
	t.Helper()
	want := []string{"app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/name"}
	selects := func(what string, selector map[string]string, component string) {
		t.Helper()
		keys := make([]string, 0, len(selector))
		for key := range selector {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		if !slices.Equal(keys, want) {
			t.Errorf("%s selects by %q, want %q", what, keys, want)
		}
		found := 0
		for _, p := range pods(r) {
			if labels.SelectorFromSet(selector).Matches(labels.Set(p.meta.Labels)) {
				found++
				if p.meta.Labels["app.kubernetes.io/component"] != component {
					t.Errorf("%s of %s selects %s, want only its own pods", what, component, p.name)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s selects %d kinds of pods, want 1", what, found)
		}
	}
	for _, o := range r.objects {
		what, component := fmt.Sprintf("%T %s", o, o.GetName()), o.GetLabels()["app.kubernetes.io/component"]
		switch o := o.(type) {
		case *appsv1.Deployment:
			selects(what, o.Spec.Selector.MatchLabels, component)
			for _, spread := range o.Spec.Template.Spec.TopologySpreadConstraints {
				selects(what+" (spread)", spread.LabelSelector.MatchLabels, component)
			}
		case *corev1.Service:
			selects(what, o.Spec.Selector, component)
		case *policyv1.PodDisruptionBudget:
			selects(what, o.Spec.Selector.MatchLabels, component)
		case *networkingv1.NetworkPolicy:
			selects(what, o.Spec.PodSelector.MatchLabels, component)
		}
	}
}

// restricted checks a pod against Pod Security's strictest level.
func restricted(t *testing.T, p pod) {
	t.Helper()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	if result := policy.AggregateCheckResults(evaluator.EvaluatePod(level, &p.meta, &p.spec)); !result.Allowed {
		t.Errorf("%s is not restricted, want it so: %s", p.name, result.ForbiddenDetail())
	}
}

func checkPodSecurity(t *testing.T, r release) {
	t.Helper()
	for _, p := range pods(r) {
		restricted(t, p)
		if token := p.spec.AutomountServiceAccountToken; token == nil || *token {
			t.Errorf("%s has a service account token, want none", p.name)
		}
		if links := p.spec.EnableServiceLinks; links == nil || *links {
			t.Errorf("%s has every Service in its environment, want none", p.name)
		}
		for _, c := range p.spec.Containers {
			if ro := c.SecurityContext.ReadOnlyRootFilesystem; ro == nil || !*ro {
				t.Errorf("%s can write to its image, want it read-only", p.name)
			}
			if strings.HasSuffix(c.Image, ":") || strings.HasSuffix(c.Image, ":latest") || !strings.ContainsAny(c.Image, ":@") {
				t.Errorf("%s has the image %q, want a tag or digest that stays the same", p.name, c.Image)
			}
		}
	}
	for _, a := range all[*corev1.ServiceAccount](r) {
		if a.AutomountServiceAccountToken == nil || *a.AutomountServiceAccountToken {
			t.Errorf("service account %s mounts a token, want none", a.Name)
		}
	}
}

// The release contains every object that another one names, except those meant to be outside.
func checkReferences(t *testing.T, r release) {
	t.Helper()
	for _, p := range pods(r) {
		if a := p.spec.ServiceAccountName; a != "default" && find[*corev1.ServiceAccount](r, a) == nil {
			t.Errorf("%s runs as %q, want a service account that exists", p.name, a)
		}
		volumes := map[string]bool{}
		for _, v := range p.spec.Volumes {
			volumes[v.Name] = true
			if v.ConfigMap != nil && !strings.HasPrefix(v.Name, "configmap-") && find[*corev1.ConfigMap](r, v.ConfigMap.Name) == nil {
				t.Errorf("%s mounts ConfigMap %q, want one that exists", p.name, v.ConfigMap.Name)
			}
		}
		for _, c := range p.spec.Containers {
			for _, m := range c.VolumeMounts {
				if !volumes[m.Name] {
					t.Errorf("%s mounts volume %q, want one that exists", p.name, m.Name)
				}
				if m.SubPath != "" {
					t.Errorf("%s mounts a part of %q, want the whole, which sees changes", p.name, m.Name)
				}
			}
			for _, a := range c.Args {
				if path, ok := strings.CutPrefix(a, "--config="); ok {
					if !configured(r, p, c, path) {
						t.Errorf("%s names the file %s, want it mounted", p.name, path)
					}
				}
			}
		}
	}
	for _, h := range all[*autoscalingv2.HorizontalPodAutoscaler](r) {
		d := find[*appsv1.Deployment](r, h.Spec.ScaleTargetRef.Name)
		if d == nil || h.Spec.ScaleTargetRef.Kind != "Deployment" {
			t.Errorf("%s scales %v, want a Deployment that exists", h.Name, h.Spec.ScaleTargetRef)
		} else if d.Spec.Replicas != nil {
			t.Errorf("%s scales %s, which has %d replicas, want none: an upgrade would set it back", h.Name, d.Name, *d.Spec.Replicas)
		}
	}
	port := func(what, service string, want intstr.IntOrString) {
		t.Helper()
		if s := find[*corev1.Service](r, service); s == nil || !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
			return want == intstr.FromString(p.Name) || want == intstr.FromInt32(p.Port)
		}) {
			t.Errorf("%s leads to port %s of Service %s, which there is not", what, want.String(), service)
		}
	}
	for _, i := range all[*networkingv1.Ingress](r) {
		for _, rule := range i.Spec.Rules {
			for _, p := range rule.HTTP.Paths {
				port(i.Name, p.Backend.Service.Name, intstr.FromString(p.Backend.Service.Port.Name))
			}
		}
	}
	for _, h := range all[*gatewayv1.HTTPRoute](r) {
		for _, rule := range h.Spec.Rules {
			for _, b := range rule.BackendRefs {
				port(h.Name, string(b.Name), intstr.FromInt32(*b.Port))
			}
		}
	}
	for _, a := range clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0].Args {
		address, ok := strings.CutPrefix(a, "--faults=")
		if !ok {
			continue
		}
		if u, err := url.Parse(address); err != nil {
			t.Error(err)
		} else if !strings.Contains(u.Hostname(), ".") {
			port("the live page", u.Hostname(), intstr.Parse(u.Port()))
		}
	}
	for _, m := range all[*monitoringv1.ServiceMonitor](r) {
		selected := 0
		for _, s := range all[*corev1.Service](r) {
			hasAdmin := slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == m.Spec.Endpoints[0].Port })
			if labels.SelectorFromSet(m.Spec.Selector.MatchLabels).Matches(labels.Set(s.Labels)) && hasAdmin {
				selected++
			}
		}
		components := 0
		for _, d := range all[*appsv1.Deployment](r) {
			if d.Labels["app.kubernetes.io/component"] != "jaeger" {
				components++
			}
		}
		if selected != components {
			t.Errorf("%s selects %d Services with a port %s, want one for each of %d components", m.Name, selected, m.Spec.Endpoints[0].Port, components)
		}
	}
}

// configured reports whether a file that a container names comes from a ConfigMap.
func configured(r release, p pod, c corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		for _, v := range p.spec.Volumes {
			if m.MountPath == filepath.Dir(path) && m.Name == v.Name && v.ConfigMap != nil {
				_, ok := find[*corev1.ConfigMap](r, v.ConfigMap.Name).Data[filepath.Base(path)]
				return ok
			}
		}
	}
	return false
}

// The ports are the design's. Services lead to them by name, and so do probes and policies.
func checkPorts(t *testing.T, r release) {
	t.Helper()
	want := map[string]map[string]int32{
		"client":       {"http": 8080, "admin": 8081},
		"flaky-server": {"http": 5000, "admin": 5001},
		"jaeger":       {"query": 16686, "otlp-grpc": 4317, "otlp-http": 4318},
	}
	for _, d := range all[*appsv1.Deployment](r) {
		component := d.Labels["app.kubernetes.io/component"]
		ports := want[component]
		c := d.Spec.Template.Spec.Containers[0]
		if len(c.Ports) != len(ports) {
			t.Errorf("%s has ports %v, want %v", d.Name, c.Ports, ports)
		}
		for _, p := range c.Ports {
			if ports[p.Name] != p.ContainerPort {
				t.Errorf("%s has port %s %d, want %v", d.Name, p.Name, p.ContainerPort, ports)
			}
		}
		for what, probe := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
			if probe == nil || ports[probe.HTTPGet.Port.StrVal] == 0 || component != "jaeger" && probe.HTTPGet.Port.StrVal != "admin" {
				t.Errorf("%s has the %s probe %+v, want one of a port of its own, and the admin port if there is one", d.Name, what, probe)
			}
		}
		s := find[*corev1.Service](r, d.Name)
		if s == nil {
			t.Errorf("%s has no Service, want one", d.Name)
			continue
		}
		for _, p := range s.Spec.Ports {
			if ports[p.TargetPort.StrVal] == 0 || p.Name != p.TargetPort.StrVal {
				t.Errorf("Service %s leads to port %s, want one of %v", s.Name, p.TargetPort.String(), ports)
			}
			if p.Port != ports[p.Name] && (component != "client" || p.Name != "http") {
				t.Errorf("Service %s has %s at %d, want %d", s.Name, p.Name, p.Port, ports[p.Name])
			}
		}
		if n := find[*networkingv1.NetworkPolicy](r, d.Name); n != nil {
			for _, rule := range n.Spec.Ingress {
				for _, p := range rule.Ports {
					if ports[p.Port.StrVal] == 0 {
						t.Errorf("policy %s is about port %s, want one of %v", n.Name, p.Port.String(), ports)
					}
				}
			}
		}
	}
}

// Calls in flight may end before the kubelet kills the pod. That takes the drain delay, the longest
// timeout, 2 s to cut what is left (internal/serve) and 3 s for the last spans (cmd/client).
func checkDrain(t *testing.T, r release, c configuration) {
	t.Helper()
	d := clientOf[*appsv1.Deployment](t, r)
	var delay, longest, drain time.Duration
	for _, a := range d.Spec.Template.Spec.Containers[0].Args {
		if text, ok := strings.CutPrefix(a, "--drain-delay="); ok {
			delay = duration(t, text)
		}
		if text, ok := strings.CutPrefix(a, "--drain-timeout="); ok {
			drain = duration(t, text)
		}
	}
	if l := d.Spec.Template.Spec.Containers[0].Lifecycle; l != nil {
		delay += time.Duration(l.PreStop.Sleep.Seconds) * time.Second
	}
	for _, p := range c.Policies {
		// The hour stands for none in HTTPRoutes. Nobody wants pods to wait for so long, and
		// --drain-timeout says how long they do.
		if timeout := duration(t, p.Timeout); timeout != time.Hour {
			longest = max(longest, timeout)
		}
	}
	if longest == 0 {
		t.Fatal("no policy has a timeout, want one")
	}
	checkDrainTimeout(t, d, delay, longest, drain)
	grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	if needed := delay + longest + 5*time.Second; grace < needed {
		t.Errorf("the client has %v to end, want at least %v", grace, needed)
	} else if grace > needed+40*time.Second {
		t.Errorf("the client has %v to end, want at most %v", grace, needed+40*time.Second)
	}
	for _, d := range all[*appsv1.Deployment](r) {
		if d.Labels["app.kubernetes.io/component"] == "jaeger" {
			continue
		}
		if u := d.Spec.Strategy.RollingUpdate; u == nil || u.MaxUnavailable == nil || *u.MaxUnavailable != intstr.FromInt32(0) {
			t.Errorf("%s: an update takes pods away before there are new ones, want maxUnavailable 0", d.Name)
		}
		if d.Labels["app.kubernetes.io/component"] != "flaky-server" {
			continue
		}
		sleep := int64(0)
		if l := d.Spec.Template.Spec.Containers[0].Lifecycle; l != nil {
			sleep = l.PreStop.Sleep.Seconds
		}
		// The 10 s for calls in flight are a constant of cmd/flaky-server.
		if grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds; grace < sleep+10+5 {
			t.Errorf("%s has %d s to end, want at least %d s", d.Name, grace, sleep+10+5)
		}
	}
}

// checkDrainTimeout checks how long calls in flight have at most. With HTTPRoutes, policies have an
// hour, and the flag ends the wait before the kubelet does.
func checkDrainTimeout(t *testing.T, d *appsv1.Deployment, delay, longest, drain time.Duration) {
	t.Helper()
	grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
	switch {
	case drain == 0:
	case drain < longest:
		t.Errorf("--drain-timeout is %v, want at least the longest timeout, %v", drain, longest)
	case delay+drain+5*time.Second > grace:
		t.Errorf("--drain-timeout is %v after %v, and the grace period %v, want 5 s more", drain, delay, grace)
	}
}

// The drain delay goes to the kubelet and to the client. The kubelet sleeps for flaky-server and
// for the first half of the client's delay; the client drains for the rest. Older API servers
// refuse a sleep of 0.
func TestDrainDelay(t *testing.T) {
	for delay, tc := range map[string]struct {
		server, client int64
		drain          string
	}{
		"0": {0, 0, "0s"}, "0s": {0, 0, "0s"}, "5s": {5, 2, "3s"}, "250ms": {1, 0, "0.25s"}, "1m0.5s": {61, 30, "30.5s"},
		"10us": {1, 0, "0.00001s"}, "1ns": {1, 0, "0.000000001s"}, "20s": {20, 10, "10s"}, "600h": {2160000, 1080000, "1080000s"},
	} {
		t.Run(delay, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, fmt.Sprintf("client: {drainDelay: %s}\nflakyServer: {drainDelay: %s}", delay, delay)))
			client := clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0]
			if !slices.Contains(client.Args, "--drain-delay="+tc.drain) {
				t.Errorf("the client runs with %q, want a drain delay of %s", client.Args, tc.drain)
			}
			server := find[*appsv1.Deployment](r, "flaky-server").Spec.Template.Spec.Containers[0]
			for _, c := range []struct {
				container corev1.Container
				sleep     int64
			}{{client, tc.client}, {server, tc.server}} {
				switch l := c.container.Lifecycle; {
				case c.sleep == 0 && l != nil:
					t.Errorf("%s: preStop is %v, want none", c.container.Name, l.PreStop)
				case c.sleep > 0 && (l == nil || l.PreStop.Sleep == nil || l.PreStop.Sleep.Seconds != c.sleep):
					t.Errorf("%s: lifecycle is %v, want a sleep of %d s", c.container.Name, l, c.sleep)
				}
			}
		})
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The template's helper that adds durations reads the formats that the client reads.
func TestGracePeriod(t *testing.T) {
	for timeout, want := range map[string]int64{
		"5s": 30, "15s": 30, "15.1s": 60, "15100ms": 60, ".1s": 30, "1m": 90, "1m15.0001s": 120, "1h2m3s": 3750,
		"15000000us": 30, "15000001µs": 60, "15000000001ns": 60, "15.s": 30,
	} {
		t.Run(timeout, func(t *testing.T) {
			r := mustRender(t, "rebound", map[string]any{"config": map[string]any{"policies": map[string]any{
				"long": map[string]any{"timeout": timeout, "attemptTimeout": "1ms"},
			}}})
			if got := *clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.TerminationGracePeriodSeconds; got != want {
				t.Errorf("with a drain delay of 5s the grace period is %d s, want %d", got, want)
			}
		})
	}
	t.Run("what has no timeout has the client's", func(t *testing.T) {
		// 16 s of drain delay leave 4 of the first half minute, and the default is 5 s.
		for _, policies := range []map[string]any{
			{"default": map[string]any{"timeout": "1s", "attemptTimeout": "1s"}, "demo": map[string]any{"timeout": "1s", "attemptTimeout": "1s"}, "other": map[string]any{}},
			{"demo": nil},
			nil,
		} {
			r := mustRender(t, "rebound", map[string]any{
				"config": map[string]any{"policies": policies, "routes": []any{map[string]any{"name": "a", "match": "/", "upstream": "http://a"}}},
				"client": map[string]any{"drainDelay": "15.5s"},
			})
			if got := *clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.TerminationGracePeriodSeconds; got != 60 {
				t.Errorf("policies %v: %d s, want 60", policies, got)
			}
		}
	})
}

// A changed policy gives new pods, because the old ones keep what they run with. With hotReload it
// leaves the pods alone, because they read it again.
func TestChangeOfPolicy(t *testing.T) {
	with := func(component, values string) string {
		text, err := yaml.Marshal(find[*appsv1.Deployment](mustRender(t, "rebound", parse(t, values)), component).Spec)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, tc := range map[string]struct {
		values string
		same   bool
	}{
		"a policy":             {"config: {policies: {demo: {timeout: 4s, retry: {maxAttempts: 1}}}}", true},
		"a route":              {"config: {routes: [{name: a, match: /, upstream: 'http://a'}]}", true},
		"a far longer timeout": {"config: {policies: {demo: {timeout: 1h}}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			const hot = "client: {hotReload: true}\n"
			if same := with("client", hot) == with("client", hot+tc.values); same != tc.same {
				t.Errorf("with hotReload the Deployment is the same: %v, want %v", same, tc.same)
			}
			if with("client", "{}") == with("client", tc.values) {
				t.Error("without hotReload the Deployment is the same, want new pods")
			}
			if once, again := with("client", tc.values), with("client", tc.values); once != again {
				t.Error("the same values give two Deployments, want one")
			}
		})
	}
	if with("flaky-server", "{}") == with("flaky-server", "flakyServer: {faults: {errorRate: 0.2}}") {
		t.Error("a change of the faults keeps flaky-server's pods, want a restart: it reads them once")
	}
}

// The chart shows the demo's policy with the demo's routes.
func TestDefaultIsTheDemo(t *testing.T) {
	text, err := os.ReadFile(root + "/cmd/demo/rebound.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var demo, shipped struct {
		Routes   []map[string]any
		Policies map[string]map[string]any
	}
	if err := yaml.Unmarshal(text, &demo); err != nil {
		t.Fatal(err)
	}
	m := clientOf[*corev1.ConfigMap](t, mustRender(t, "rebound", nil))
	if err := yaml.Unmarshal([]byte(m.Data["rebound.yaml"]), &shipped); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(demo.Policies["default"]) != fmt.Sprint(shipped.Policies["demo"]) || len(shipped.Policies) != 1 {
		t.Errorf("policies %v, want the demo's: %v", shipped.Policies, demo.Policies)
	}
	for i, route := range demo.Routes {
		upstream, _ := route["upstream"].(string)
		route["upstream"], route["policy"] = strings.Replace(upstream, "127.0.0.1:5000", "flaky-server:5000", 1), "demo"
		if i >= len(shipped.Routes) || fmt.Sprint(shipped.Routes[i]) != fmt.Sprint(route) {
			t.Errorf("routes %v, want %v as number %d", shipped.Routes, route, i)
		}
	}
}

// Helm reads every number in a file as a float. From a million on, its text has an exponent.
func TestLargeNumbers(t *testing.T) {
	const values = `
client:
  replicas: 1000000
  podDisruptionBudget: {maxUnavailable: 2000000}
  service: {type: NodePort, admin: false, port: 65535, nodePort: 32767}
flakyServer: {replicas: 3000000, seed: 9007199254740991}
jaeger: {enabled: true, runAsUser: 1000720000}
podSecurityContext: {runAsUser: 1000730000, runAsGroup: 1000730000}
`
	const shares = `
client:
  podDisruptionBudget: {minAvailable: 2000000}
  autoscaling: {enabled: true, minReplicas: 3000000, maxReplicas: 4000000, targetCPUUtilizationPercentage: 1000000}
`
	r, scaled := mustRender(t, "rebound", parse(t, values)), mustRender(t, "rebound", parse(t, shares))
	for _, m := range append(r.manifests, scaled.manifests...) {
		if e := regexp.MustCompile(`[0-9]e[+-][0-9]+`).FindString(m.Content); e != "" {
			t.Errorf("%s has the number %s, want it without an exponent", m.Name, e)
		}
	}
	client, server := clientOf[*appsv1.Deployment](t, r), find[*appsv1.Deployment](r, "flaky-server")
	if *client.Spec.Replicas != 1000000 || *server.Spec.Replicas != 3000000 {
		t.Errorf("got %d and %d pods, want 1000000 and 3000000", *client.Spec.Replicas, *server.Spec.Replicas)
	}
	if args := server.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--seed=9007199254740991") {
		t.Errorf("flaky-server runs with %q, want --seed=9007199254740991", args)
	}
	if u := *find[*appsv1.Deployment](r, "jaeger").Spec.Template.Spec.SecurityContext.RunAsUser; u != 1000720000 {
		t.Errorf("Jaeger runs as %d, want 1000720000", u)
	}
	if b := clientOf[*policyv1.PodDisruptionBudget](t, r).Spec.MaxUnavailable; *b != intstr.FromInt32(2000000) {
		t.Errorf("%s may be away, want 2000000", b)
	}
	h := clientOf[*autoscalingv2.HorizontalPodAutoscaler](t, scaled)
	if *h.Spec.MinReplicas != 3000000 || h.Spec.MaxReplicas != 4000000 || *h.Spec.Metrics[0].Resource.Target.AverageUtilization != 1000000 {
		t.Errorf("got %+v, want 3000000 to 4000000 pods at 1000000 %%", h.Spec)
	}
}

// Go collects garbage before it reaches the limit at which the kernel kills.
func TestMemoryLimit(t *testing.T) {
	for limit, want := range map[string]string{
		"256Mi": "241591910", "1Gi": "966367641", "'1.5Gi'": "1449551462", "200M": "180000000", "134217728": "120795955", "1e9": "900000000",
		"'1e9'": "900000000", "2E8": "180000000", "'+.5G'": "450000000", "128000000000m": "115200000", "1Pi": "1013309916158361", "1Ei": "1037629354146162304",
		"null": "", "0": "",
	} {
		t.Run(limit, func(t *testing.T) {
			resources := fmt.Sprintf("{resources: {limits: {memory: %s}}}", limit)
			r := mustRender(t, "rebound", parse(t, "client: "+resources+"\nflakyServer: "+resources))
			for _, component := range []string{"client", "flaky-server"} {
				c := find[*appsv1.Deployment](r, component).Spec.Template.Spec.Containers[0]
				got := variable(c, "GOMEMLIMIT")
				if got != want {
					t.Errorf("%s has %q, want %q", component, got, want)
				}
				if q, has := c.Resources.Limits[corev1.ResourceMemory]; want != "" {
					n, err := strconv.ParseInt(got, 10, 64)
					if share := float64(n) / q.AsApproximateFloat64(); err != nil || !has || math.Abs(share-0.9) > 1e-6 {
						t.Errorf("%s may use %v of its limit, want 0.9: %s (%v)", component, share, q.String(), err)
					}
				}
			}
		})
	}
	t.Run("the user's", func(t *testing.T) {
		r := mustRender(t, "rebound", parse(t, "client: {extraEnv: [{name: GOMEMLIMIT, value: 100MiB}]}"))
		env := clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Containers[0].Env
		found := slices.DeleteFunc(slices.Clone(env), func(v corev1.EnvVar) bool { return v.Name != "GOMEMLIMIT" })
		if len(found) != 1 || found[0].Value != "100MiB" {
			t.Errorf("got GOMEMLIMIT %v, want 100MiB", found)
		}
	})
}

// A number that Helm has read from YAML is still a number for the client.
func TestNumbersSurvive(t *testing.T) {
	r := mustRender(t, "rebound", map[string]any{"config": map[string]any{"policies": map[string]any{"demo": map[string]any{
		"breaker": map[string]any{"minRequests": float64(20000000), "failureRatio": 1e-7},
	}}}})
	text := clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"]
	var c struct {
		Policies map[string]struct {
			Breaker struct {
				MinRequests  int
				FailureRatio float64
			}
		}
	}
	if err := yaml.Unmarshal([]byte(text), &c); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if b := c.Policies["demo"].Breaker; b.MinRequests != 20000000 || math.Abs(b.FailureRatio-1e-7) > 1e-12 || strings.Contains(text, "e+") {
		t.Errorf("got %+v, want 20000000 requests and a ratio of 1e-7 without exponent:\n%s", b, text)
	}
}
