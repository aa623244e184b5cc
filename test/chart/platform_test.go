package chart_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/yaml"
)

// Before an installation, each program checks what its pods will get: configuration or faults,
// environment, and files. What is wrong fails the check at once. Environment and faults were once
// left out: then pods were installed that could not start.
func TestCheckBeforeAnInstallation(t *testing.T) {
	programs := map[string]string{"client": build(t, "client"), "flaky-server": build(t, "flaky-server")}
	for name, tc := range map[string]struct {
		values, refuses string
	}{
		"a good one":              {"{}", ""},
		"conflicting patterns":    {"config: {routes: [{name: a, match: /a/, upstream: 'http://a'}, {name: b, match: 'GET /{x}/b', upstream: 'http://b'}]}", "client"},
		"credentials":             {"config: {routes: [{name: a, match: /, upstream: 'http://user:secret@a'}]}", "client"},
		"a missing file":          {"client: {upstreams: {a: {ca: {secret: none}}}}\nconfig: {routes: [{name: a, match: /, upstream: a}], upstreams: {a: {url: 'https://a'}}}", "client"},
		"traces":                  {"otel: {endpoint: 'http://a:4318'}", ""},
		"traces without a port":   {"otel: {endpoint: 'http://a', protocol: grpc}", "client flaky-server"},
		"a word for a share":      {"client: {extraEnv: [{name: OTEL_TRACES_SAMPLER, value: traceidratio}, {name: OTEL_TRACES_SAMPLER_ARG, value: 10%}]}", "client"},
		"a wrong attribute":       {"client: {extraEnv: [{name: OTEL_RESOURCE_ATTRIBUTES, value: a=100%}]}", "client"},
		"an attribute in percent": {"otel: {resourceAttributes: {a: 100%}}", ""},
		"no flaky-server":         {"flakyServer: {enabled: false, faults: {resetRate: 0.8}}\nconfig: {routes: [{name: a, match: /, upstream: 'http://a'}]}", ""},
		"faults":                  {"flakyServer: {faults: {resetRate: 0.7}}", ""},
		"faults of more than all": {"flakyServer: {faults: {resetRate: 0.8}}", "flaky-server"},
		"a status of no error":    {"flakyServer: {faults: {statuses: [200]}}", "flaky-server"},
		"a variable of faults":    {"flakyServer: {extraEnv: [{name: OTEL_TRACES_SAMPLER, value: often}]}", "flaky-server"},
		"faults unchecked":        {"flakyServer: {configCheck: false, faults: {resetRate: 0.8}}", ""},
		"only faults checked":     {"client: {configCheck: false}\nconfig: {routes: [{name: a, match: /, upstream: 'http://user:secret@a'}]}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, tc.values))
			checkReferences(t, r)
			var refuses []string
			for _, job := range all[*batchv1.Job](r) {
				program := strings.TrimSuffix(job.Name, "-check")
				code, said := runCheck(t, programs[program], r, job)
				if code == 2 {
					refuses = append(refuses, program)
				} else if code != 0 {
					t.Errorf("%s ends with %d, want 0 or 2:\n%s", job.Name, code, said)
				}
				data := find[*corev1.ConfigMap](r, job.Name).Data
				own := find[*corev1.ConfigMap](r, program)
				if program == "client" {
					own = clientOf[*corev1.ConfigMap](t, r)
				}
				for key, text := range own.Data {
					if strings.TrimSpace(data[key]) != strings.TrimSpace(text) {
						t.Errorf("%s checks\n%s\nwant what the pods get\n%s", job.Name, data[key], text)
					}
				}
			}
			if slices.Sort(refuses); strings.Join(refuses, " ") != tc.refuses {
				t.Errorf("%q refuse it, want %q", refuses, tc.refuses)
			}
		})
	}
}

// runCheck runs the program as the only container of a check does, and returns its exit code and
// what it said.
func runCheck(t *testing.T, program string, r release, job *batchv1.Job) (code int, said string) {
	t.Helper()
	containers := job.Spec.Template.Spec.Containers
	if len(containers) != 1 {
		t.Fatalf("%s has %d containers, want 1", job.Name, len(containers))
	}
	c := containers[0]
	path, ok := strings.CutPrefix(c.Args[0], "--config=")
	if !ok {
		t.Fatalf("%s has the arguments %q, want the file first", job.Name, c.Args)
	}
	file := filepath.Join(t.TempDir(), filepath.Base(path))
	if err := os.WriteFile(file, []byte(find[*corev1.ConfigMap](r, job.Name).Data[filepath.Base(path)]), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--config=" + file}, c.Args[1:]...)...)
	cmd.Env = environment(c)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out) // -1 is a signal
}

// Each program has a check of its own, which can be switched off by itself. Both were once one Job:
// what kept flaky-server's from running, such as an image from before its --check, refused every
// configuration of the client.
func TestChecksApart(t *testing.T) {
	for name, tc := range map[string]struct {
		values string
		want   []string
	}{
		"by default":             {"{}", []string{"client-check", "flaky-server-check"}},
		"client's off":           {"client: {configCheck: false}", []string{"flaky-server-check"}},
		"flaky-server's off":     {"flakyServer: {configCheck: false}", []string{"client-check"}},
		"both off":               {"{client: {configCheck: false}, flakyServer: {configCheck: false}}", nil},
		"without a flaky-server": {"{flakyServer: {enabled: false}, config: {routes: [{name: a, match: /, upstream: 'http://a'}]}}", []string{"client-check"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, tc.values))
			var jobs, files []string
			for _, o := range r.checks {
				if job, ok := o.(*batchv1.Job); ok {
					jobs = append(jobs, job.Name)
				} else {
					files = append(files, o.GetName())
				}
			}
			slices.Sort(jobs)
			slices.Sort(files)
			if !slices.Equal(jobs, tc.want) || !slices.Equal(files, tc.want) {
				t.Errorf("got the Jobs %q and the ConfigMaps %q, want %q of both", jobs, files, tc.want)
			}
		})
	}
	r := mustRender(t, "rebound", parse(t, `
client: {image: {tag: one, pullPolicy: Always}, nodeSelector: {a: client}}
flakyServer: {image: {tag: two}, nodeSelector: {a: faults}, tolerations: [{key: faulty, operator: Exists}]}
`))
	for program, want := range map[string]string{"client": "client one Always 0", "flaky-server": "faults two IfNotPresent 1"} {
		job := find[*batchv1.Job](r, program+"-check")
		spec := job.Spec.Template.Spec
		c := spec.Containers[0]
		_, tag, _ := strings.Cut(c.Image, ":")
		if got := fmt.Sprint(spec.NodeSelector["a"], " ", tag, " ", c.ImagePullPolicy, " ", len(spec.Tolerations)); got != want {
			t.Errorf("%s has the node, image and tolerations %q, want %q", job.Name, got, want)
		}
	}
}

// Only the program's own exit code 2 fails a check at once. That of a container which something
// injects once counted too, as a wrong configuration.
func TestExitCodeOfTheCheck(t *testing.T) {
	jobs := all[*batchv1.Job](mustRender(t, "rebound", nil))
	if len(jobs) != 2 {
		t.Errorf("got %d Jobs, want both checks", len(jobs))
	}
	for _, job := range jobs {
		rule := job.Spec.PodFailurePolicy.Rules[0]
		if rule.Action != batchv1.PodFailurePolicyActionFailJob || !slices.Equal(rule.OnExitCodes.Values, []int32{2}) {
			t.Errorf("%s: got %+v, want it to fail at exit code 2", job.Name, rule)
		}
		if name := rule.OnExitCodes.ContainerName; name == nil || *name != job.Spec.Template.Spec.Containers[0].Name {
			t.Errorf("%s: the rule is for the container %v, want the check's alone", job.Name, name)
		}
	}
}

// environment returns a container's variables in the form of [os.Environ].
func environment(c corev1.Container) []string {
	all := []string{} // nil would be this program's own
	for _, v := range c.Env {
		if v.ValueFrom != nil {
			v.Value = "x"
		}
		value := regexp.MustCompile(`\$\(\w+\)`).ReplaceAllString(v.Value, "x")
		all = append(all, v.Name+"="+value)
	}
	return all
}

// Each check gets the variables of the pods, and their flags that --check looks at. Only their
// memory is not that of the check.
func TestEnvironmentOfTheCheck(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, `
otel: {endpoint: 'http://a:4318'}
client: {extraEnv: [{name: A, value: b}], extraArgs: [--traces=http://b], extraEnvFrom: [{secretRef: {name: c}}]}
flakyServer: {extraEnv: [{name: C, value: d}], seed: 7}
`))
	for program, flags := range map[string][]string{"client": {"--config=/etc/rebound/rebound.yaml", "--traces=http://b"}, "flaky-server": {"--config=/etc/rebound/faults.yaml", "--seed=7"}} {
		own := find[*appsv1.Deployment](r, program).Spec.Template.Spec.Containers[0]
		checked := find[*batchv1.Job](r, program+"-check").Spec.Template.Spec.Containers[0]
		others := func(v corev1.EnvVar) bool { return v.Name == "GOMEMLIMIT" }
		want, got := slices.DeleteFunc(slices.Clone(own.Env), others), slices.DeleteFunc(slices.Clone(checked.Env), others)
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(checked.EnvFrom, own.EnvFrom) {
			t.Errorf("%s: the check gets %v and %v, want the pods' %v and %v", program, got, checked.EnvFrom, want, own.EnvFrom)
		}
		if limit, given := checked.Resources.Limits.Memory().Value(), variable(checked, "GOMEMLIMIT"); given != fmt.Sprint(limit*9/10) {
			t.Errorf("%s: the check has GOMEMLIMIT %s, want nine tenths of %d", program, given, limit)
		}
		for _, flag := range flags {
			if !slices.Contains(checked.Args, flag) || !slices.Contains(own.Args, flag) {
				t.Errorf("%s: the check has the arguments %q and the pods %q, want %s in both", program, checked.Args, own.Args, flag)
			}
		}
		if !slices.Contains(checked.Args, "--check") {
			t.Errorf("%s: the check has the arguments %q, want --check", program, checked.Args)
		}
	}
}

// Nothing keeps the pod of the check from ending: no proxy of a mesh, which outlives it, no quota
// that demands limits, and no rule that keeps the client's pods apart. It has nearly Helm's five
// minutes, because an image may have to be pulled.
func TestCheckCanRun(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, `
commonLabels: {sidecar.istio.io/inject: "true"}
podDefaults:
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}
    podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/component: client}}}]}
`))
	if a := clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.Affinity; a == nil || a.NodeAffinity == nil || a.PodAntiAffinity == nil {
		t.Errorf("the client has the affinity %v, want both kinds", a)
	}
	containers := slices.Clone(r.tests[0].(*corev1.Pod).Spec.Containers)
	for _, name := range []string{"client-check", "flaky-server-check"} {
		job := find[*batchv1.Job](r, name)
		if limit := job.Spec.ActiveDeadlineSeconds; limit == nil || *limit < 240 || *limit >= 300 {
			t.Errorf("%s has %v seconds, want nearly 300", name, limit)
		}
		template := job.Spec.Template
		if template.Labels["sidecar.istio.io/inject"] != "false" || template.Annotations["linkerd.io/inject"] != "disabled" {
			t.Errorf("%s: got labels %v and annotations %v, want no proxy of a mesh", name, template.Labels, template.Annotations)
		}
		if a := template.Spec.Affinity; a == nil || a.NodeAffinity == nil || a.PodAntiAffinity != nil {
			t.Errorf("%s has the affinity %v, want only that to nodes", name, a)
		}
		containers = append(containers, template.Spec.Containers...)
	}
	for _, c := range containers {
		if c.Resources.Limits.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
			t.Errorf("%s has the limits %v, want both", c.Name, c.Resources.Limits)
		}
	}
}

// The affinity of the check is that to nodes of the affinity that the client has. That of
// podDefaults once took its place where the client's had none to nodes.
func TestAffinityOfTheCheck(t *testing.T) {
	const nodes = "nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}"
	const apart = "podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {}}]}"
	for name, tc := range map[string]struct {
		own, standard string
		nodes         bool
	}{
		"none":                        {"", "", false},
		"apart":                       {apart, "", false},
		"apart by default":            {"", apart, false},
		"apart by both":               {apart, apart, false},
		"on nodes, and apart":         {nodes + ", " + apart, "", true},
		"on nodes, apart, by default": {"", nodes + ", " + apart, true},
		"apart, on nodes by default":  {apart, nodes, false}, // as the client
		"on nodes, and apart by rule": {nodes, apart, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, fmt.Sprintf("{client: {affinity: {%s}}, podDefaults: {affinity: {%s}}}", tc.own, tc.standard)))
			a := find[*batchv1.Job](r, "client-check").Spec.Template.Spec.Affinity
			if a == nil {
				a = new(corev1.Affinity)
			}
			if (a.NodeAffinity != nil) != tc.nodes || a.PodAntiAffinity != nil {
				t.Errorf("the check has the affinity %v, want one to nodes: %v, and none to pods", a, tc.nodes)
			}
			test := r.tests[0].(*corev1.Pod).Spec.Affinity
			if test != nil && test.PodAntiAffinity != nil {
				t.Errorf("the test has the affinity %v, want none to pods", test)
			}
		})
	}
}

// Argo CD makes a PreSync hook of the check. It applies hooks, so an earlier one must be deleted
// before. It goes by weights. At the first sync nothing of the release is there. Beside a hook of
// its own, it ignores all of Helm's.
func TestHooksOfArgoCD(t *testing.T) {
	for name, values := range scenarios(t) {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", values)
			weights := map[string]int{}
			for _, h := range r.hooks {
				if slices.Contains(h.Events, releasev1.HookTest) {
					continue // Argo CD ignores it
				}
				weights[h.Kind] = h.Weight
				if !slices.Equal(h.Events, []releasev1.HookEvent{releasev1.HookPreInstall, releasev1.HookPreUpgrade}) {
					t.Errorf("%s %s is for %v, want what becomes PreSync", h.Kind, h.Name, h.Events)
				}
				if !slices.Contains(h.DeletePolicies, releasev1.HookBeforeHookCreation) {
					t.Errorf("%s %s has the policies %v, want before-hook-creation among them", h.Kind, h.Name, h.DeletePolicies)
				}
			}
			if job, ok := weights["Job"]; ok && weights["ConfigMap"] >= job {
				t.Errorf("got weights %v, want the ConfigMap before the Job", weights)
			}
			for _, o := range r.everything() {
				for key := range o.GetAnnotations() {
					if strings.HasPrefix(key, "argocd.argoproj.io/hook") {
						t.Errorf("%s has the annotation %s, want none of Argo CD's own hooks", o.GetName(), key)
					}
				}
			}
			for _, o := range r.checks {
				job, ok := o.(*batchv1.Job)
				if !ok {
					continue
				}
				for _, later := range r.objects {
					switch o := later.(type) {
					case *corev1.ServiceAccount:
						if job.Spec.Template.Spec.ServiceAccountName == o.Name {
							t.Errorf("the check runs as %s, which is made after it", o.Name)
						}
					case *corev1.ConfigMap:
						for _, v := range job.Spec.Template.Spec.Volumes {
							if v.ConfigMap != nil && v.ConfigMap.Name == o.Name {
								t.Errorf("the check mounts %s, which is made after it", o.Name)
							}
						}
					}
				}
			}
		})
	}
}

// Recreate has no part rollingUpdate, which the API server refuses, also if it is the chart's.
func TestRecreate(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, "client: {strategy: {type: Recreate}}"))
	if s := clientOf[*appsv1.Deployment](t, r).Spec.Strategy; s.Type != appsv1.RecreateDeploymentStrategyType || s.RollingUpdate != nil {
		t.Errorf("got %+v, want Recreate alone", s)
	}
}

// Secrets and ConfigMaps become files of the configuration. They are whole directories, which see a
// rotation, and the client names a missing one.
func TestFilesOfUpstreams(t *testing.T) {
	r := mustRender(t, "edge", scenarios(t)["platform-values"])
	var c struct {
		Listener struct {
			TLS struct{ CertFile, KeyFile string }
		}
		Upstreams map[string]struct {
			TLS     struct{ CAFile, CertFile, KeyFile string }
			Headers map[string]struct{ File string }
		}
	}
	if err := yaml.Unmarshal([]byte(clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"]), &c); err != nil {
		t.Fatal(err)
	}
	files := []string{c.Listener.TLS.CertFile, c.Listener.TLS.KeyFile}
	orders := c.Upstreams["orders"]
	files = append(files, orders.TLS.CAFile, orders.TLS.CertFile, orders.TLS.KeyFile, orders.Headers["Authorization"].File, c.Upstreams["search"].Headers["X-Api-Key"].File)
	job := find[*batchv1.Job](r, "edge-client-check")
	for _, spec := range []corev1.PodSpec{clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec, job.Spec.Template.Spec} {
		sources := map[string]string{}
		for _, m := range spec.Containers[0].VolumeMounts {
			for _, v := range spec.Volumes {
				switch {
				case v.Name != m.Name:
				case v.Secret != nil:
					sources[m.MountPath] = v.Secret.SecretName
				case v.ConfigMap != nil:
					sources[m.MountPath] = v.ConfigMap.Name
				}
			}
		}
		var got []string
		for _, f := range files {
			got = append(got, sources[filepath.Dir(f)]+" "+filepath.Base(f))
		}
		if want := []string{"edge-tls tls.crt", "edge-tls tls.key", "shop-bundle bundle.pem", "orders-client tls.crt", "orders-client tls.key", "orders-token token", "orders-token search"}; !slices.Equal(got, want) {
			t.Errorf("the files come from %q, want %q", got, want)
		}
		if len(slices.Compact(slices.Sorted(maps.Values(sources)))) != len(sources) {
			t.Errorf("a Secret is mounted twice, want once: %v", sources)
		}
	}
}

// A single pod has no budget, which would block the drain of its node, and nothing to spread.
func TestSinglePod(t *testing.T) {
	for name, tc := range map[string]struct {
		values string
		single bool
	}{
		"one":             {"client: {replicas: 1, podDisruptionBudget: {minAvailable: 1}}", true},
		"two":             {"client: {replicas: 2}", false},
		"unknown":         {"client: {replicas: null}", false},
		"scaled":          {"client: {replicas: 1, autoscaling: {enabled: true}}", false},
		"scaled to one":   {"client: {autoscaling: {enabled: true, minReplicas: 1, maxReplicas: 1}}", true},
		"none at present": {"client: {replicas: 0}", true},
	} {
		t.Run(name, func(t *testing.T) {
			r := mustRender(t, "rebound", parse(t, tc.values))
			budget := len(all[*policyv1.PodDisruptionBudget](r)) > 0
			spread := len(clientOf[*appsv1.Deployment](t, r).Spec.Template.Spec.TopologySpreadConstraints) > 0
			if budget == tc.single || spread == tc.single {
				t.Errorf("budget: %v, spread: %v, want both %v", budget, spread, !tc.single)
			}
		})
	}
}

// `helm --set` makes a text of a number with a fraction. It is a number again for the programs, and
// a text stays one elsewhere.
func TestNumbersFromTexts(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, `
flakyServer: {faults: {errorRate: "0.25", schedule: [{for: 1s, hangRate: "0.5"}]}}
config:
  upstreams: {ratio: {url: "http://a", headers: {ratio: "0.5"}, endpoints: {eject: {maxEjected: "0.3"}}}}
  policies: {demo: {retry: {budget: {ratio: "0.2"}, backoff: {factor: "1.5"}}, priority: {header: "7"}}}
`))
	var got, want any
	for _, m := range []string{clientOf[*corev1.ConfigMap](t, r).Data["rebound.yaml"], find[*corev1.ConfigMap](r, "flaky-server").Data["faults.yaml"]} {
		var part map[string]any
		if err := yaml.Unmarshal([]byte(m), &part); err != nil {
			t.Fatal(err)
		}
		delete(part, "routes")
		got = []any{got, part}
	}
	if err := json.Unmarshal([]byte(`[[null, {
		"upstreams": {"ratio": {"url": "http://a", "headers": {"ratio": "0.5"}, "endpoints": {"eject": {"maxEjected": 0.3}}}},
		"policies": {"demo": {"retry": {"budget": {"ratio": 0.2}, "backoff": {"factor": 1.5}, "maxAttempts": 5}, "priority": {"header": "7"}}}}],
		{"errorRate": 0.25, "schedule": [{"for": "1s", "hangRate": 0.5}]}]`), &want); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
	effective(t, build(t, "client"), r)
}

// Every notation of a number that --set leaves as a text is taken for that number, and no other
// text.
func TestNotationsOfNumbers(t *testing.T) {
	for text, want := range map[string]float64{".5": 0.5, "1e-3": 0.001, "5E-1": 0.5, "+0.25": 0.25, "0.": 0, "1": 1, "0.25e+0": 0.25} {
		r := mustRender(t, "rebound", map[string]any{"flakyServer": map[string]any{"faults": map[string]any{"errorRate": text}}})
		var got struct{ ErrorRate any }
		if err := yaml.Unmarshal([]byte(find[*corev1.ConfigMap](r, "flaky-server").Data["faults.yaml"]), &got); err != nil {
			t.Fatal(err)
		}
		if got.ErrorRate != want {
			t.Errorf("%s becomes %v, want the number %v", text, got.ErrorRate, want)
		}
	}
	for _, text := range []string{"", ".", "e3", "1e", "0x1p-2", "1_0", "NaN", "Inf", "30%", " 1"} {
		if _, err := render(t, "rebound", map[string]any{"flakyServer": map[string]any{"faults": map[string]any{"errorRate": text}}}); err == nil {
			t.Errorf("%q was accepted, want an error", text)
		}
	}
}

// All images come from one registry, unless they name their own.
func TestImageRegistry(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, "{imageRegistry: 'mirror:5000/hub', jaeger: {enabled: true}, flakyServer: {image: {repository: ghcr.io/a/flaky}}}"))
	for _, p := range pods(r) {
		for _, c := range p.spec.Containers {
			want := "mirror:5000/hub/"
			if c.Name == "flaky-server" || p.name == "flaky-server-check" {
				want = "ghcr.io/a/flaky:"
			}
			if !strings.HasPrefix(c.Image, want) {
				t.Errorf("%s runs %s, want %s…", p.name, c.Image, want)
			}
		}
	}
}

// The defaults reach every pod, and a component's own setting replaces one of them.
func TestPodDefaults(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, `
jaeger: {enabled: true, nodeSelector: {a: jaeger}}
podDefaults: {nodeSelector: {a: all}, priorityClassName: low, runtimeClassName: kata, dnsPolicy: Default, dnsConfig: {searches: [b]}, hostAliases: [{ip: "::1", hostnames: [c]}], tolerations: [{operator: Exists}], affinity: {nodeAffinity: {}}}
`))
	found := pods(r)
	if len(found) != 6 {
		t.Errorf("got %d kinds of pods, want client, flaky-server, Jaeger, the test and both checks", len(found))
	}
	for _, p := range found {
		s := p.spec
		want := map[bool]string{true: "jaeger", false: "all"}[p.name == "jaeger"]
		if s.NodeSelector["a"] != want || s.PriorityClassName != "low" || s.RuntimeClassName == nil || *s.RuntimeClassName != "kata" || s.DNSPolicy != corev1.DNSDefault ||
			s.DNSConfig == nil || len(s.HostAliases) != 1 || len(s.Tolerations) != 1 || s.Affinity == nil {
			t.Errorf("%s: got %+v, want all defaults, and %s for a", p.name, s, want)
		}
	}
}

// A policy for what leaves the client lets it reach the collector.
func TestWayToTheCollector(t *testing.T) {
	for endpoint, want := range map[string]string{
		"http://collector.observability:4318":           `[{"ports":[{"port":4318}],"to":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"observability"}}}]}]`,
		"http://collector.observability.svc.a.b:4317/x": `[{"ports":[{"port":4317}],"to":[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"observability"}}}]}]`,
		"http://collector:4318":                         `[{"ports":[{"port":4318}],"to":[{"podSelector":{}}]}]`,
		"https://otlp.vendor.example.com":               `[{"ports":[{"port":443}]}]`,
		"http://10.0.0.7":                               `[{"ports":[{"port":80}],"to":[{"ipBlock":{"cidr":"10.0.0.7/32"}}]}]`,
		"http://[fd00::7]:4318":                         `[{"ports":[{"port":4318}],"to":[{"ipBlock":{"cidr":"fd00::7/128"}}]}]`,
	} {
		t.Run(endpoint, func(t *testing.T) {
			r := mustRender(t, "rebound", map[string]any{
				"otel":          map[string]any{"endpoint": endpoint},
				"flakyServer":   map[string]any{"enabled": true},
				"networkPolicy": parse(t, "{enabled: true, egress: [{to: [{podSelector: {matchLabels: {x: z}}}]}]}"),
			})
			rules := find[*networkingv1.NetworkPolicy](r, "client").Spec.Egress
			got, err := json.Marshal(rules[2 : len(rules)-1]) // after DNS and flaky-server
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// Two releases in one namespace share no object, with every option on and with the longest names,
// which differ in the last letter only.
func TestTwoReleases(t *testing.T) {
	for _, scenario := range []string{"production-values", "platform-values", "certmanager-values"} {
		t.Run(scenario, func(t *testing.T) {
			seen := map[string]string{}
			alike := strings.Repeat("x", 52) // Helm's longest name, less one
			for _, release := range []string{"rebound", "try", alike + "a", alike + "b", alike[:41], alike[:32]} {
				values := maps.Clone(scenarios(t)[scenario])
				delete(values, "serviceAccount") // the scenario names one
				r := mustRender(t, release, values)
				checkNames(t, r)
				checkReferences(t, r)
				for _, o := range r.everything() {
					id := o.GetObjectKind().GroupVersionKind().String() + " " + o.GetName()
					if seen[id] != "" && seen[id] != release {
						t.Errorf("%s belongs to %s and %s, want one owner", id, seen[id], release)
					}
					seen[id] = release
				}
			}
		})
	}
}

// The example of a sidecar has the types of the API, passes Pod Security's strictest level, keeps
// the order of native sidecars, and has a configuration that the client accepts.
func TestSidecarExample(t *testing.T) {
	var r release
	for text := range strings.SplitSeq(read(t, "deploy/sidecar.yaml"), "\n---\n") {
		// The decoder follows no anchors.
		var document any
		if err := yaml.Unmarshal([]byte(text), &document); err != nil {
			t.Fatal(err)
		}
		plain, err := yaml.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		r.objects = append(r.objects, decode(t, "deploy/sidecar.yaml", string(plain)))
	}
	d := find[*appsv1.Deployment](r, "app")
	for _, p := range pods(r) {
		restricted(t, p)
	}
	c := d.Spec.Template.Spec.InitContainers[0]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
		t.Errorf("got restart policy %v and start-up probe %v, want a native sidecar that is ready before the application begins", c.RestartPolicy, c.StartupProbe)
	}
	if !strings.HasSuffix(c.Image, ":"+load(t).Metadata.AppVersion) {
		t.Errorf("it runs %s, want version %s", c.Image, load(t).Metadata.AppVersion)
	}
	text, err := check(t, build(t, "client"), find[*corev1.ConfigMap](r, "app-rebound").Data["rebound.yaml"])
	if err != nil {
		t.Fatal(err)
	}
	var effective configuration
	if err := yaml.Unmarshal([]byte(text), &effective); err != nil {
		t.Fatal(err)
	}
	if longest, grace := duration(t, effective.Policies["default"].Timeout).Seconds()+5, *d.Spec.Template.Spec.TerminationGracePeriodSeconds; float64(grace) < longest {
		t.Errorf("the pod has %d s to end, want at least %v", grace, longest)
	}
}

// KEDA's object scales the Deployment, in place of the autoscaler, by this release's calls only.
func TestScaledObject(t *testing.T) {
	r := mustRender(t, "try", scenarios(t)["platform-values"])
	o := find[*unstructured.Unstructured](r, "try-client")
	if o == nil {
		t.Fatal("got no ScaledObject, want one")
	}
	target, _, _ := unstructured.NestedString(o.Object, "spec", "scaleTargetRef", "name")
	triggers, _, _ := unstructured.NestedSlice(o.Object, "spec", "triggers")
	if find[*appsv1.Deployment](r, target) == nil || len(triggers) != 2 {
		t.Fatalf("it scales %q by %v, want the client by two triggers", target, triggers)
	}
}

// KEDA's query finds the pods of this release and no others, whatever their names are. Of a long
// name Kubernetes cuts the end, and with it the dash before the random part. A query that finds
// nothing would be 0 calls, and scale a loaded release down.
func TestScaledObjectFindsThePods(t *testing.T) {
	query := func(release string) (client string, pods *regexp.Regexp) {
		t.Helper()
		r := mustRender(t, release, parse(t, "client: {autoscaling: {enabled: true, keda: {enabled: true, serverAddress: 'http://a'}}}"))
		client = clientOf[*appsv1.Deployment](t, r).Name
		o := find[*unstructured.Unstructured](r, client)
		triggers, _, _ := unstructured.NestedSlice(o.Object, "spec", "triggers")
		text, _, _ := unstructured.NestedString(triggers[0].(map[string]any), "metadata", "query")
		match := regexp.MustCompile(`^sum\(rebound_calls_active\{namespace="somewhere",pod=~"([^"]+)"\}\)$`).FindStringSubmatch(text)
		if match == nil {
			t.Fatalf("it asks for %s, want the calls of pods", text)
		}
		return client, regexp.MustCompile("^(?:" + match[1] + ")$") // as Prometheus takes it
	}
	for _, length := range []int{3, 38, 39, 40, 41, 42, 53} {
		release := strings.Repeat("x", length)
		t.Run(release, func(t *testing.T) {
			client, pods := query(release)
			for _, hash := range []string{"5d7f8b9c", "5d7f8b9c6", "5d7f8b9c64"} { // of 8 to 10 characters
				for other, want := range map[string]bool{client: true, release + "y-client": false, release + "-y-client": false} {
					if pod := names.SimpleNameGenerator.GenerateName(other + "-" + hash + "-"); pods.MatchString(pod) != want {
						t.Errorf("the query %s finds the pod %s: %v, want %v", pods, pod, !want, want)
					}
				}
			}
		})
	}
}

// Where the platform assigns users, as OpenShift does, no pod asks for one: also not those of the
// check and the test.
func TestNoFixedUser(t *testing.T) {
	r := mustRender(t, "rebound", parse(t, "{jaeger: {enabled: true, runAsUser: null}, podSecurityContext: {runAsUser: null, runAsGroup: null}}"))
	found := pods(r)
	if len(found) != 6 {
		t.Errorf("got %d kinds of pods, want client, flaky-server, Jaeger, the test and both checks", len(found))
	}
	for _, p := range found {
		s := p.spec.SecurityContext
		if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot {
			t.Fatalf("%s has the security context %v, want no root", p.name, s)
		}
		if s.RunAsUser != nil || s.RunAsGroup != nil || s.FSGroup != nil || len(s.SupplementalGroups) > 0 {
			t.Errorf("%s asks for a user or a group: %v", p.name, s)
		}
		for _, c := range slices.Concat(p.spec.InitContainers, p.spec.Containers) {
			if c.SecurityContext != nil && (c.SecurityContext.RunAsUser != nil || c.SecurityContext.RunAsGroup != nil) {
				t.Errorf("%s of %s asks for a user or a group: %v", c.Name, p.name, c.SecurityContext)
			}
		}
	}
}
