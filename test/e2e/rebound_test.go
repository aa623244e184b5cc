//go:build e2e

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// helm install keeps the promises of the README. The stack comes up, calls survive 30 % of errors,
// and Jaeger has the attempts. helm test passes, a changed policy takes effect without a restart,
// and uninstall leaves nothing behind.
func TestInstall(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "jaeger.enabled=true", "--set", "client.faultControls=true", "--set", "client.hotReload=true")
	for _, component := range []string{"client", "flaky-server", "jaeger"} {
		for _, pod := range p.pods(component) {
			checkSecurity(t, pod)
		}
	}
	calls := p.forward("svc/client", "8080")
	p.processSurvives(calls)

	t.Run("a trace", func(t *testing.T) {
		var id, text string
		var resp *http.Response
		for last := range 3 { // one call of 400 fails five times
			id = fmt.Sprintf("0af7651916cd43dd8448eb211c80319%d", last)
			resp, text = request(t, http.MethodGet, calls+"/process", "", map[string]string{"traceparent": "00-" + id + "-b7ad6b7169203331-01"})
			if resp.StatusCode == http.StatusOK {
				break
			}
			t.Logf("got status %s\n%s", resp.Status, text)
		}
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("got status %s from the third call, want 200\n%s", resp.Status, text)
		}
		p.traceHasAttempts(t, p.forward("svc/jaeger", "16686"), id, resp.Header.Get("X-Attempt-Count"))
	})
	t.Run("the live page", func(t *testing.T) { p.pageBreaksTheUpstream(t) })
	t.Run("helm test", func(*testing.T) { p.helm("test", "rebound", "--timeout", "1m") })
	t.Run("a changed policy", func(t *testing.T) { p.policyChangesWithoutRestart(t) })
	t.Run("a wrong policy is refused", func(t *testing.T) {
		if _, err := output(t.Context(), "helm", "--kube-context", on.context, "--namespace", p.namespace,
			"upgrade", "rebound", chart, "--reuse-values", "--set", "config.policies.default.timeout=soon"); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Errorf("got %v, want an error that names the timeout", err)
		}
	})
	t.Run("uninstall", func(t *testing.T) { p.uninstallLeavesNothing(t) })
}

// processSurvives makes 200 calls under the demo's faults and policy.
func (p place) processSurvives(calls string) {
	p.t.Helper()
	p.reached(calls)
	succeeded, attempts, failures := 0, map[string]int{}, ""
	for range 200 {
		resp, text, err := try(p.t.Context(), http.MethodGet, calls+"/process", "", nil)
		if err != nil {
			p.t.Log(err)
			continue
		}
		if resp.StatusCode == http.StatusOK {
			succeeded++
		} else {
			failures += fmt.Sprintf("%s %.300s\n", resp.Status, text)
		}
		attempts[resp.Header.Get("X-Attempt-Count")]++
	}
	p.t.Logf("%d of 200 calls succeeded; by attempts: %v", succeeded, attempts)
	// Five attempts fail for 0.3⁵ of the calls: half a call of 200. Five such calls or more happen
	// once in 6,000 runs.
	if succeeded < 196 || len(attempts) < 2 {
		p.t.Errorf("%d of 200 calls succeeded, want at least 196, some of them after a retry: %v\n%s", succeeded, attempts, failures)
	}
}

// traceHasAttempts asks Jaeger for a call's spans on both sides.
func (p place) traceHasAttempts(t *testing.T, jaeger, id, attempts string) {
	t.Helper()
	type trace struct {
		Data []struct {
			Spans []struct {
				OperationName string
				ProcessID     string
				Tags          []struct{ Key string }
			}
			Processes map[string]struct {
				ServiceName string
				Tags        []struct{ Key, Value any }
			}
		}
	}
	eventually(t, 30*time.Second, "the trace is in Jaeger", func() (bool, string) {
		_, text, err := try(t.Context(), http.MethodGet, jaeger+"/api/traces/"+id, "", nil)
		if err != nil {
			return false, err.Error()
		}
		var got trace
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Data) != 1 {
			return false, text
		}
		made, arrived, pods := 0, 0, map[string]bool{}
		for _, s := range got.Data[0].Spans {
			process := got.Data[0].Processes[s.ProcessID]
			for _, tag := range process.Tags {
				if tag.Key == "k8s.pod.name" {
					pods[fmt.Sprint(tag.Value)] = true
				}
			}
			for _, tag := range s.Tags {
				switch {
				case tag.Key == "rebound.verdict" && process.ServiceName == "client":
					made++
				case tag.Key == "rebound.fault" && process.ServiceName == "flaky-server":
					arrived++
				}
			}
		}
		said := fmt.Sprintf("%d attempts made, %d arrived, of %s, in pods %v", made, arrived, attempts, pods)
		return fmt.Sprint(made) == attempts && fmt.Sprint(arrived) == attempts && len(pods) == 2, said
	})
}

// pageBreaksTheUpstream presses the live page's buttons through its API, and checks flaky-server's
// faults.
func (p place) pageBreaksTheUpstream(t *testing.T) {
	t.Helper()
	pod := p.pods("client")[0].Name
	page, flaky := p.forward("pod/"+pod, "8081"), p.forward("svc/flaky-server", "5001")
	own := map[string]string{"Origin": page, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
	if resp, text := request(t, http.MethodGet, page+"/", "", map[string]string{"Accept": "text/html"}); resp.StatusCode != http.StatusOK || !strings.Contains(text, "live.js") {
		t.Fatalf("the page: got status %s, want 200 and live.js\n%s", resp.Status, text)
	}
	if resp, text := request(t, http.MethodPut, page+"/api/faults", `{"errorRate": 1, "statuses": [500]}`, own); resp.StatusCode != http.StatusOK {
		t.Fatalf("a button: got status %s, want 200\n%s", resp.Status, text)
	}
	if _, text := request(t, http.MethodGet, flaky+"/faults", "", nil); !strings.Contains(text, "errorRate: 1\n") && !strings.Contains(text, `"errorRate":1,`) {
		t.Errorf("got flaky-server's faults, want errorRate 1:\n%s", text)
	}
	if resp, text := request(t, http.MethodPost, page+"/api/faults/reset", "", own); resp.StatusCode != http.StatusOK {
		t.Errorf("Reset: got status %s, want 200\n%s", resp.Status, text)
	}
	if _, text := request(t, http.MethodGet, flaky+"/faults", "", nil); !strings.Contains(text, "errorRate: 0.3\n") && !strings.Contains(text, `"errorRate":0.3,`) {
		t.Errorf("got flaky-server's faults after Reset, want errorRate 0.3 again:\n%s", text)
	}
}

// policyChangesWithoutRestart changes maxAttempts by helm upgrade.
func (p place) policyChangesWithoutRestart(t *testing.T) {
	t.Helper()
	before := p.pods("client")
	admins := map[string]string{}
	for _, pod := range before {
		admins[pod.Name] = p.forward("pod/"+pod.Name, "8081")
	}
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--set", "config.policies.demo.retry.maxAttempts=7")
	for pod, admin := range admins {
		// The kubelet reads ConfigMaps again about once a minute.
		eventually(t, 3*time.Minute, pod+" takes the new policy", func() (bool, string) {
			_, text, err := try(t.Context(), http.MethodGet, admin+"/config", "", nil)
			return err == nil && strings.Contains(text, "maxAttempts: 7"), fmt.Sprint(err)
		})
	}
	after := p.pods("client")
	if len(after) != len(before) {
		t.Errorf("got %d pods, want %d as before", len(after), len(before))
	}
	for _, pod := range after {
		if _, ok := admins[pod.Name]; !ok || pod.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("pod %s is new or was restarted, want the old one", pod.Name)
		}
	}
}

// uninstallLeavesNothing checks everything that a release can leave.
func (p place) uninstallLeavesNothing(t *testing.T) {
	t.Helper()
	p.helm("uninstall", "rebound", "--wait", "--timeout", "2m")
	var kept []string
	for kind := range strings.FieldsSeq(p.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name")) {
		if !strings.HasPrefix(kind, "events") && !strings.Contains(kind, "metrics.k8s.io") {
			kept = append(kept, kind)
		}
	}
	eventually(t, time.Minute, "nothing is left", func() (bool, string) {
		var left []string
		for line := range strings.Lines(p.kubectl("get", strings.Join(kept, ","), "--ignore-not-found", "-o", "name")) {
			// Every namespace has these.
			if line = strings.TrimSpace(line); line != "configmap/kube-root-ca.crt" && line != "serviceaccount/default" {
				left = append(left, line)
			}
		}
		return len(left) == 0, strings.Join(left, " ")
	})
}

// checkSecurity checks what a pod may do. Its admission to a restricted namespace proves most of it
// already.
func checkSecurity(t *testing.T, pod corev1.Pod) {
	t.Helper()
	for _, c := range pod.Spec.Containers {
		s := c.SecurityContext
		if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) != 0 {
			t.Errorf("%s: container %s may write its root file system or has capabilities, want neither: %+v", pod.Name, c.Name, s)
		}
	}
	if token := pod.Spec.AutomountServiceAccountToken; token == nil || *token {
		t.Errorf("%s has a token of its service account, want none", pod.Name)
	}
}

// outcome is the result of load.
type outcome struct {
	Calls, Failed, Resent int
	P99, Slowest          float64
	How                   map[string]int
	Before                map[string]int // failures until the first success
}

// load starts callers inside the cluster. They call at a steady rate until stop is called, which
// returns the results.
func (p place) load(url string, rate int, more ...string) (stop func() outcome) {
	p.t.Helper()
	no, yes := false, true
	user := int64(65532)
	job, err := on.BatchV1().Jobs(p.namespace).Create(p.t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "load-"},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever,
				NodeSelector:  p.callers,
				SecurityContext: &corev1.PodSecurityContext{
					RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
				},
				Containers: []corev1.Container{{
					Name: "load", Image: loadImage, Args: append([]string{"-url", url, "-rate", fmt.Sprint(rate), "-first", "20s"}, more...),
					// Without a share of the CPU it would measure how it waits for one.
					Resources:       corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}},
					SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	name := "job/" + job.Name
	logs := func() (string, error) {
		return output(p.t.Context(), "kubectl", p.kubectlArgs([]string{"logs", "--tail=-1", name})...)
	}
	eventually(p.t, 2*time.Minute, "the load begins", func() (bool, string) {
		text, err := logs()
		return err == nil && strings.Contains(text, "begun"), fmt.Sprint(err)
	})
	return func() outcome {
		p.t.Helper()
		// The pod stays until its log has been read: deleting it would delete the log too.
		follow := make(chan string, 1)
		go func() {
			text, _ := output(p.t.Context(), "kubectl", p.kubectlArgs([]string{"logs", "--tail=-1", "--follow", name})...)
			follow <- text
		}()
		time.Sleep(time.Second) // until it follows
		p.kubectl("delete", name, "--wait=false")
		text := <-follow
		var o outcome
		lines := strings.Split(strings.TrimSpace(text), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &o); err != nil {
			p.t.Fatalf("the load printed no result, want one: %v\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
		if len(o.Before) > 0 {
			p.t.Logf("calls of %s failed before the first that ended well: %v", url, o.Before)
		}
		return o
	}
}

// Restarted and deleted pods cost no caller anything.
func TestNoCallIsLost(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0", "--set", "flakyServer.replicas=2")
	for name, disturb := range map[string]func(){
		"restart of client":          func() { p.kubectl("rollout", "restart", "deployment/client") },
		"restart of flaky-server":    func() { p.kubectl("rollout", "restart", "deployment/flaky-server") },
		"a flaky-server pod deleted": func() { p.kubectl("delete", "pod", p.pods("flaky-server")[0].Name, "--wait=false") },
		"a client pod deleted":       func() { p.kubectl("delete", "pod", p.pods("client")[0].Name, "--wait=false") },
	} {
		t.Run(name, func(t *testing.T) {
			p := place{t: t, namespace: p.namespace}
			// A pod is Ready a moment before the cluster's network knows it, and a new client may
			// reach nothing then.
			twice(t, func() string {
				got := p.disturbed(disturb)
				t.Logf("%+v", got)
				if got.Failed > 0 || got.Calls < 200 {
					return fmt.Sprintf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
				}
				return ""
			})
		})
	}
}

// disturbed returns the results of calls while disturb changes the pods.
func (p place) disturbed(disturb func()) outcome {
	p.t.Helper()
	stop := p.load("http://client:8080/process", 50)
	time.Sleep(2 * time.Second)
	disturb()
	for _, d := range []string{"client", "flaky-server"} {
		p.kubectl("rollout", "status", "deployment/"+d, "--timeout=3m")
		eventually(p.t, 2*time.Minute, "the old pods are gone", func() (bool, string) {
			n := len(p.pods(d))
			return n == 2, fmt.Sprintf("%d pods of %s", n, d)
		})
	}
	time.Sleep(2 * time.Second)
	return stop()
}

// Each replica has its own circuit. An outage opens both, and both close again. Metrics are
// labelled by pod.
func TestEachReplicaHasItsOwnBreaker(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0")
	faults := p.forward("svc/flaky-server", "5001")
	pods := p.pods("client")
	if len(pods) != 2 {
		t.Fatalf("%d pods of client, want 2", len(pods))
	}
	state := func(admin string) string {
		for line := range strings.Lines(get(t, admin+"/metrics")) {
			if strings.HasPrefix(line, "rebound_breaker_state{") && strings.HasSuffix(strings.TrimSpace(line), " 1") {
				_, rest, _ := strings.Cut(line, `state="`)
				s, _, _ := strings.Cut(rest, `"`)
				return s
			}
		}
		return "none"
	}
	data, admin := make([]string, 2), make([]string, 2)
	for i, pod := range pods {
		data[i], admin[i] = p.forward("pod/"+pod.Name, "8080"), p.forward("pod/"+pod.Name, "8081")
		p.reached(data[i])
		if s := state(admin[i]); s != "closed" {
			t.Errorf("%s: the circuit is %s at first, want closed", pod.Name, s)
		}
	}
	putFaults(t, faults, "errorRate: 1")
	// One circuit does not see the calls of the other replica.
	eventually(t, time.Minute, "the first circuit opens", func() (bool, string) {
		request(t, http.MethodGet, data[0]+"/process", "", nil)
		s := state(admin[0])
		return s == "open" || s == "half-open", s
	})
	if s := state(admin[1]); s != "closed" {
		t.Errorf("the second circuit is %s after the failures of the first, want closed", s)
	}
	eventually(t, time.Minute, "the second circuit opens", func() (bool, string) {
		request(t, http.MethodGet, data[1]+"/process", "", nil)
		s := state(admin[1])
		return s == "open" || s == "half-open", s
	})
	for i := range admin {
		if text := get(t, admin[i]+"/breakers"); !strings.Contains(text, "flaky-server:5000") {
			t.Errorf("/breakers has no flaky-server:5000, want it:\n%s", text)
		}
	}
	putFaults(t, faults, "errorRate: 0")
	for i := range data {
		eventually(t, time.Minute, "the circuit closes", func() (bool, string) {
			request(t, http.MethodGet, data[i]+"/process", "", nil)
			s := state(admin[i])
			return s == "closed", s
		})
	}
}

// kubectl apply -k gives the same stack without Helm.
func TestManifests(t *testing.T) {
	p := newPlace(t)
	p.kubectl("apply", "-k", root+"/k8s")
	for _, d := range []string{"client", "flaky-server", "jaeger"} {
		p.kubectl("rollout", "status", "deployment/"+d, "--timeout=3m")
	}
	calls := p.forward("svc/client", "8080")
	p.processSurvives(calls)
	id := "4bf92f3577b34da6a3ce929d0e0e4736"
	resp, _ := request(t, http.MethodGet, calls+"/process", "", map[string]string{"traceparent": "00-" + id + "-00f067aa0ba902b7-01"})
	p.traceHasAttempts(t, p.forward("svc/jaeger", "16686"), id, resp.Header.Get("X-Attempt-Count"))
	p.kubectl("delete", "-k", root+"/k8s", "--wait")
}

// The API server accepts the chart's HorizontalPodAutoscaler and PodDisruptionBudget. With a
// metrics server the autoscaler scales.
func TestScaling(t *testing.T) {
	twice(t, func() string {
		p := newPlace(t)
		p.install("--set", "flakyServer.faults.errorRate=0",
			"--set", "client.autoscaling.enabled=true", "--set", "client.autoscaling.minReplicas=1", "--set", "client.autoscaling.maxReplicas=3",
			"--set", "client.autoscaling.targetCPUUtilizationPercentage=20", "--set", "client.resources.requests.cpu=20m")
		if _, err := on.PolicyV1().PodDisruptionBudgets(p.namespace).Get(t.Context(), "client", metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := on.AutoscalingV2().HorizontalPodAutoscalers(p.namespace).Get(t.Context(), "client", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains("\n"+p.kubectl("api-versions"), "\nmetrics.k8s.io/") { // not custom.metrics.k8s.io
			t.Skip("no metrics server: the cluster does not serve metrics.k8s.io")
		}
		// Far above the target. With more, a pause of a busy machine while pods start leaves so
		// many calls in flight that it looks like an upstream that hangs.
		stop := p.load("http://client:8080/process", 40)
		eventually(t, 5*time.Minute, "it scales", func() (bool, string) {
			h, err := on.AutoscalingV2().HorizontalPodAutoscalers(p.namespace).Get(t.Context(), "client", metav1.GetOptions{})
			if err != nil {
				return false, err.Error()
			}
			return h.Status.CurrentReplicas > 1, fmt.Sprintf("%+v", h.Status)
		})
		if got := stop(); got.Failed > 0 {
			return fmt.Sprintf("%d of %d calls failed while it scaled, want none: %v", got.Failed, got.Calls, got.How)
		}
		return ""
	})
}
