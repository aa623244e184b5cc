//go:build e2e

package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fails runs helm, which must fail, and returns what it says.
func (p place) fails(args ...string) string {
	p.t.Helper()
	out, err := output(p.t.Context(), "helm", append([]string{"--kube-context", on.context, "--namespace", p.namespace}, args...)...)
	if err == nil {
		p.t.Fatalf("helm %s: got\n%s\nwant an error", strings.Join(args, " "), out)
	}
	return out + err.Error()
}

// apply sends objects to the API server.
func (p place) apply(objects string, args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), "kubectl", p.kubectlArgs(append([]string{"apply", "-f", "-"}, args...))...)
	cmd.Stdin = strings.NewReader(objects)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("kubectl apply: %v\n%s\n%s", err, out, objects)
	}
}

// replicas returns how many pods the client's Deployment wants.
func (p place) replicas() int32 {
	p.t.Helper()
	d, err := on.AppsV1().Deployments(p.namespace).Get(p.t.Context(), "client", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return *d.Spec.Replicas
}

// configMap returns the name of the ConfigMap that new pods mount. It must exist.
func (p place) configMap() string {
	p.t.Helper()
	d, err := on.AppsV1().Deployments(p.namespace).Get(p.t.Context(), "client", metav1.GetOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, v := range d.Spec.Template.Spec.Volumes {
		if v.Name == "config" {
			if _, err := on.CoreV1().ConfigMaps(p.namespace).Get(p.t.Context(), v.ConfigMap.Name, metav1.GetOptions{}); err != nil {
				p.t.Fatal(err)
			}
			return v.ConfigMap.Name
		}
	}
	p.t.Fatal("the client mounts no configuration, want one")
	return ""
}

// The API server accepts what the chart renders from every file of values. Kinds that a bare
// cluster lacks are left out.
func TestEveryScenarioIsAccepted(t *testing.T) {
	p := newPlace(t)
	paths, err := filepath.Glob(chart + "/ci/*-values.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatalf("got %v (%v), want the scenarios", paths, err)
	}
	served := strings.Fields(p.kubectl("api-versions"))
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			p := place{t: t, namespace: p.namespace}
			var known []string
			for object := range strings.SplitSeq(p.helm("template", "rebound", chart, "--values", path), "\n---\n") {
				missing := false
				// A bare cluster lacks these. One with their definitions checks their objects too.
				for _, version := range []string{"monitoring.coreos.com/v1", "keda.sh/v1alpha1", "cert-manager.io/v1", "gateway.networking.k8s.io/v1"} {
					missing = missing || strings.Contains(object, "apiVersion: "+version+"\n") && !slices.Contains(served, version)
				}
				if !missing {
					known = append(known, object)
				}
				if strings.Contains(object, "\nkind: ServiceAccount\n") {
					p.apply(object) // the server looks for those of pods
				}
			}
			all := strings.Join(known, "\n---\n")
			// This cluster has one family of addresses, and none of these classes.
			for text, here := range map[string]string{
				`ipFamilies: ["IPv6","IPv4"]`: `ipFamilies: ["IPv4"]`, "priorityClassName: standard": "", "runtimeClassName: kata": "",
			} {
				all = strings.ReplaceAll(all, text, here)
			}
			p.apply(all, "--dry-run=server", "--server-side")
		})
	}
}

// A configuration that the client refuses changes nothing: not the pods, not what a new pod gets.
func TestBadConfigurationChangesNothing(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0", "--set", "client.replicas=1", "--set", "client.drainDelay=0")
	before, pod := p.configMap(), p.pods("client")[0].Name
	const conflict = `config.routes=[{"name":"a","match":"/a/","upstream":"http://a"},{"name":"b","match":"GET /{x}/b","upstream":"http://b"}]`
	if said := p.fails("upgrade", "rebound", chart, "--reuse-values", "--set-json", conflict, "--timeout", "3m"); !strings.Contains(said, "client-check") || !strings.Contains(said, "routes[1].match") {
		t.Errorf("helm says %s, want that the check failed, and the client's words", said)
	}
	if log := p.kubectl("logs", "job/client-check"); !strings.Contains(log, "routes[1].match") {
		t.Errorf("the check says %s, want the route", log)
	}
	if got := p.configMap(); got != before {
		t.Errorf("new pods mount %s, want %s as before", got, before)
	}
	if got := p.pods("client"); len(got) != 1 || got[0].Name != pod || got[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("got pods %v, want %s as before", got, pod)
	}
	p.kubectl("delete", "pod", pod)
	p.kubectl("rollout", "status", "deployment/client", "--timeout=3m")
	p.helm("test", "rebound", "--timeout", "1m")

	// With a file that is read again, a pod can come to refuse it. The test then fails.
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "client.hotReload=true")
	p.kubectl("patch", "configmap", "client", "--type=merge", "-p", `{"data":{"rebound.yaml":"routes: []\n"}}`)
	p.kubectl("annotate", "pod", p.pods("client")[0].Name, "now=yes") // the kubelet looks at once
	admin := p.forward("deployment/client", "8081")
	eventually(t, 2*time.Minute, "the pod refuses the file", func() (bool, string) {
		resp, text, err := try(t.Context(), http.MethodGet, admin+"/configz", "", nil)
		return err == nil && resp.StatusCode == http.StatusServiceUnavailable, fmt.Sprint(text, err)
	})
	// The log of the test tells a refusal from a test that could not be made.
	if said := p.fails("test", "rebound", "--timeout", "1m"); !strings.Contains(said, "/configz: 503 Service Unavailable") {
		t.Errorf("helm says %s, want that a pod refuses its configuration", said)
	}
}

// A number of pods that somebody else has set survives an upgrade and a rollback, if the release
// does not own it. If it does, it says so, and can be made to win.
func TestRollbackAfterScaling(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "client.replicas=null", "--set", "client.drainDelay=0")
	first := p.configMap()
	p.kubectl("scale", "deployment/client", "--replicas=3")
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "config.policies.demo.timeout=4s")
	if n := p.replicas(); n != 3 || p.configMap() == first {
		t.Errorf("got %d pods with %s after the upgrade, want 3 with a new ConfigMap", n, p.configMap())
	}
	p.helm("rollback", "rebound", "1", "--wait", "--timeout", "3m")
	if n := p.replicas(); n != 3 || p.configMap() != first {
		t.Errorf("got %d pods with %s after the rollback, want 3 with %s", n, p.configMap(), first)
	}
	p.helm("upgrade", "rebound", chart, "--wait", "--timeout", "3m", "--set", "client.replicas=2", "--set", "client.drainDelay=0", "--force-conflicts")
	if n := p.replicas(); n != 2 {
		t.Errorf("got %d pods, want 2, which the release owns now", n)
	}
}

// A rollback of a release with a number of pods does not overrule kubectl scale in silence.
func TestRollbackOfANumberAfterScaling(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "client.replicas=1", "--set", "client.drainDelay=0")
	first := p.configMap()
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "config.policies.demo.timeout=4s")
	second := p.configMap()
	p.kubectl("scale", "deployment/client", "--replicas=3")
	if said := p.fails("rollback", "rebound", "1", "--wait", "--timeout", "3m"); !strings.Contains(said, ".spec.replicas") {
		t.Errorf("helm says %s, want a conflict on .spec.replicas", said)
	}
	if n := p.replicas(); n != 3 || p.configMap() != second {
		t.Errorf("got %d pods with %s after the refused rollback, want 3 with %s as before", n, p.configMap(), second)
	}
	p.helm("rollback", "rebound", "1", "--force-conflicts", "--wait", "--timeout", "3m")
	if n := p.replicas(); n != 1 || p.configMap() != first {
		t.Errorf("got %d pods with %s after the rollback, want 1 with %s", n, p.configMap(), first)
	}
}

// The revision that switched the autoscaler on has the number of pods of that moment. Its values,
// in place of a rollback to it, keep the present one.
func TestRollbackToTheSwitchOfTheAutoscaler(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "client.replicas=3", "--set", "client.resources.requests.cpu=10m", "--set", "client.drainDelay=0", "--set", "flakyServer.faults.errorRate=0")
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "client.autoscaling.enabled=true")
	p.kubectl("scale", "deployment/client", "--replicas=5") // as the autoscaler does
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "2m", "--set", "client.podAnnotations.a=b")
	if n := p.replicas(); n != 5 {
		t.Fatalf("got %d pods after an upgrade, want the autoscaler's 5", n)
	}
	if said := p.fails("rollback", "rebound", "2", "--wait", "--timeout", "2m"); !strings.Contains(said, ".spec.replicas") {
		t.Errorf("helm says %s, want a conflict on .spec.replicas", said)
	}
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(p.helm("get", "values", "rebound", "--revision", "2", "--output", "yaml")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.helm("upgrade", "rebound", chart, "--values", values, "--wait", "--timeout", "2m")
	if n := p.replicas(); n != 5 {
		t.Errorf("got %d pods by the values of revision 2, want the autoscaler's 5", n)
	}
	p.helm("rollback", "rebound", "2", "--force-conflicts", "--wait", "--timeout", "2m")
	if n := p.replicas(); n != 3 {
		t.Errorf("got %d pods after the forced rollback, want the 3 of its revision", n)
	}
}

// The autoscaler begins with the pods that there are.
func TestAutoscalerKeepsThePods(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "client.replicas=6", "--set", "client.resources.requests.cpu=10m", "--set", "client.drainDelay=0", "--set", "flakyServer.faults.errorRate=0")
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	least := atomic.Int32{}
	least.Store(6)
	watching.Go(func() {
		for ctx.Err() == nil {
			if d, err := on.AppsV1().Deployments(p.namespace).Get(ctx, "client", metav1.GetOptions{}); err == nil {
				least.Store(min(least.Load(), *d.Spec.Replicas))
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "client.autoscaling.enabled=true")
	time.Sleep(20 * time.Second) // the autoscaler looks every 15 s
	p.helm("upgrade", "rebound", chart, "--reuse-values", "--wait", "--timeout", "3m", "--set", "client.podAnnotations.a=b")
	stop()
	watching.Wait()
	if n := least.Load(); n < 6 {
		t.Errorf("only %d pods were wanted, want 6 all the time", n)
	}
}

// pair returns a self-signed certificate for localhost, and its key, in PEM.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// A renewed certificate of the data port is served without a restart, and costs no call.
func TestRotatedCertificate(t *testing.T) {
	p := newPlace(t)
	trusted := x509.NewCertPool()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{}}
	renew := func(serial int64) {
		secret.Data["tls.crt"], secret.Data["tls.key"] = pair(t, serial)
		trusted.AppendCertsFromPEM(secret.Data["tls.crt"])
	}
	renew(1)
	if _, err := on.CoreV1().Secrets(p.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.install("--set", "client.tls.secretName=edge", "--set", "client.replicas=1", "--set", "flakyServer.faults.errorRate=0")
	pod := p.pods("client")[0].Name
	url := strings.Replace(p.forward("pod/"+pod, "8080"), "http://127.0.0.1", "https://localhost", 1) + "/process"

	renew(2) // trusted before it is served
	serial := func() (int64, error) {
		// Each call needs a new connection. None is closed before the end: kubectl port-forward
		// ends when a connection is reset.
		connections := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}}
		t.Cleanup(connections.CloseIdleConnections)
		caller := &http.Client{Timeout: 10 * time.Second, Transport: connections}
		resp, err := caller.Get(url)
		if err != nil {
			return 0, err
		}
		defer func() { _ = resp.Body.Close() }()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("%s: %w", resp.Status, err)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if got, err := serial(); err != nil || got != 1 {
		t.Fatalf("got certificate %d (%v), want the first one", got, err)
	}
	if _, err := on.CoreV1().Secrets(p.namespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.kubectl("annotate", "pod", pod, "now=yes") // the kubelet looks at once
	calls := 0
	eventually(t, 2*time.Minute, "the renewed certificate is served", func() (bool, string) {
		calls++
		got, err := serial()
		if err != nil {
			t.Errorf("call %d failed, want none to: %v", calls, err)
		}
		return got == 2 || err != nil, fmt.Sprint(got)
	})
	if now := p.pods("client"); len(now) != 1 || now[0].Name != pod || now[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("got pods %v, want %s without a restart", now, pod)
	}
	t.Logf("%d calls until the renewed certificate was served", calls)
}

// Metrics can be scraped whatever the type of the Service of the routes is.
func TestMetricsOfALoadBalancer(t *testing.T) {
	p := newPlace(t)
	p.helm("install", "rebound", chart, "--set", "client.service.type=LoadBalancer", "--set", "client.service.admin=false", "--set", "client.service.externalTrafficPolicy=Local",
		"--set", "flakyServer.faults.errorRate=0")
	p.kubectl("rollout", "status", "deployment/client", "--timeout=3m")
	p.kubectl("rollout", "status", "deployment/flaky-server", "--timeout=3m")
	if text := get(t, p.forward("svc/client-metrics", "8081")+"/metrics"); !strings.Contains(text, "\nrebound_calls_active ") {
		t.Errorf("got\n%.500s\nwant rebound_calls_active", text)
	}
	p.helm("test", "rebound", "--timeout", "1m")
}

// A platform's own containers, users, names and probes are those of running pods, also behind
// network policies.
func TestRoomForThePlatform(t *testing.T) {
	version, err := appVersion()
	if err != nil {
		t.Fatal(err)
	}
	const user = 12345
	text := fmt.Sprintf(`
podDefaults:
  hostAliases: [{ip: 127.0.0.1, hostnames: [beside.test]}]
  dnsConfig: {options: [{name: ndots, value: "2"}]}
podSecurityContext: {runAsUser: %[1]d, runAsGroup: %[1]d}
networkPolicy: {enabled: true}
config:
  routes: [{name: process, match: GET /process, upstream: "http://beside.test:5055"}]
  policies: {default: {retry: {maxAttempts: 10, budget: {ratio: 1}}}} # three attempts in ten fail
client:
  replicas: 1
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  minReadySeconds: 1
  startupProbe: {periodSeconds: 1, failureThreshold: 60}
  initContainers:
    - {name: before, image: "rebound/client:%[2]s", args: [--version], securityContext: &restricted {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}
  extraContainers:
    - {name: beside, image: "rebound/flaky-server:%[2]s", args: [--listen=:5055, --admin=:5056], securityContext: *restricted}
`, user, version)
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	p.install("--values", values)
	pods := p.pods("client")
	if len(pods) != 1 {
		t.Fatalf("got %d pods of the client, want 1", len(pods))
	}
	pod := pods[0]
	if got := pod.Spec.SecurityContext.RunAsUser; got == nil || *got != user {
		t.Errorf("got user %v, want %d", got, user)
	}
	if states := pod.Status.InitContainerStatuses; len(states) != 1 || states[0].State.Terminated == nil || states[0].State.Terminated.ExitCode != 0 {
		t.Errorf("got init containers %+v, want one that has ended well", states)
	}
	ready := map[string]bool{}
	for _, c := range pod.Status.ContainerStatuses {
		ready[c.Name] = c.Ready
	}
	if want := map[string]bool{"client": true, "beside": true}; !maps.Equal(ready, want) {
		t.Errorf("got containers %v, want %v", ready, want)
	}
	// The name, the container beside the client, and the policies for the caller's way.
	get(t, p.forward("svc/client", "8080")+"/process")
	p.helm("test", "rebound", "--timeout", "1m")
}

// A team's HTTPRoute is the client's configuration.
func TestHTTPRouteAsConfiguration(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0", "--set", "client.replicas=1")
	route := fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: %s}
spec:
  rules:
    - matches: [{path: {type: Exact, value: /process}}]
      timeouts: {request: 2s}
      retry: {attempts: 2, codes: [503]}
      backendRefs: [{name: flaky-server, port: 5000}]
`, p.namespace)
	p.apply(sidecar(t, map[string]string{
		"registry.example.com/app:1": loadImage, `[-url, "http://localhost:8080/process"]`: `[-url, "http://localhost:8080/process", -rate, "20", -for, 3s]`,
	}, route))
	eventually(t, time.Minute, "the calls end", func() (bool, string) {
		text, err := output(t.Context(), "kubectl", p.kubectlArgs([]string{"logs", "deployment/app", "-c", "app"})...)
		if err != nil || !strings.Contains(text, `"calls"`) {
			return false, fmt.Sprint(text, err)
		}
		if got := result(t, text); got.Failed > 0 || got.Calls < 40 {
			t.Errorf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
		}
		return true, ""
	})
}

// sidecar returns deploy/sidecar.yaml with other texts, and with another configuration if it is not
// empty.
func sidecar(t *testing.T, replace map[string]string, configuration string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "deploy", "sidecar.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := string(text)
	for old, replacement := range replace {
		if !strings.Contains(all, old) {
			t.Fatalf("deploy/sidecar.yaml has no %q, want it", old)
		}
		all = strings.ReplaceAll(all, old, replacement)
	}
	if configuration != "" {
		before, rest, ok := strings.Cut(all, "  rebound.yaml: |\n")
		_, after, ok2 := strings.Cut(rest, "\n---\n")
		if !ok || !ok2 {
			t.Fatal("deploy/sidecar.yaml has no rebound.yaml, want it")
		}
		all = before + "  rebound.yaml: |\n    " + strings.ReplaceAll(strings.TrimSpace(configuration), "\n", "\n    ") + "\n---\n" + after
	}
	return all
}

// result returns the outcome that a load printed last.
func result(t *testing.T, text string) (o outcome) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &o); err != nil {
		t.Fatalf("the load printed no result, want one: %v\n%s", err, text)
	}
	return o
}

// The example of a sidecar keeps the order of its start and its end, so that none of the
// application's calls is lost: from its first, and until its last.
func TestSidecar(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0", "--set", "client.replicas=1")
	example := sidecar(t, map[string]string{
		"registry.example.com/app:1": loadImage, `[-url, "http://localhost:8080/process"]`: `[-url, "http://localhost:8080/process", -rate, "100"]`,
	}, "")
	t.Run("the pod is deleted", func(t *testing.T) {
		p := place{t: t, namespace: p.namespace}
		p.apply(example)
		p.kubectl("rollout", "status", "deployment/app", "--timeout=3m")
		follow := func(container string) <-chan string {
			text := make(chan string, 1)
			pod := strings.TrimSpace(p.kubectl("get", "pod", "-l", "app=app", "-o", "jsonpath={.items[0].metadata.name}"))
			go func() {
				out, _ := output(t.Context(), "kubectl", p.kubectlArgs([]string{"logs", "--tail=-1", "--follow", "--timestamps", pod, "-c", container})...)
				text <- out
			}()
			return text
		}
		app, beside := follow("app"), follow("rebound")
		time.Sleep(3 * time.Second)
		p.kubectl("delete", "deployment/app", "--wait=false")
		log, clientLog := <-app, <-beside
		lines := strings.Split(strings.TrimSpace(log), "\n")
		at, last, _ := strings.Cut(lines[len(lines)-1], " ")
		got := result(t, last)
		t.Logf("%+v", got)
		if got.Failed > 0 || got.Calls < 200 {
			t.Errorf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
		}
		// The client's last line is from its own end, which comes after the application's last
		// line.
		clientLines := strings.Split(strings.TrimSpace(clientLog), "\n")
		if ended, _, _ := strings.Cut(clientLines[len(clientLines)-1], " "); ended < at {
			t.Errorf("the client ended at %s, want it after the application, at %s:\n%s", ended, at, clientLog)
		}
	})
	t.Run("the application ends", func(t *testing.T) {
		p := place{t: t, namespace: p.namespace}
		spec := strings.NewReplacer("kind: Deployment", "kind: Job", "apiVersion: apps/v1", "apiVersion: batch/v1", "  selector:\n    matchLabels: {app: app}\n", "",
			`"100"]`, `"100", -for, 5s]`, "      automountServiceAccountToken: false\n", "      automountServiceAccountToken: false\n      restartPolicy: Never\n").Replace(example)
		p.apply(spec)
		// A client among the containers would keep the Job running.
		p.kubectl("wait", "--for=condition=complete", "job/app", "--timeout=3m")
		got := result(t, p.kubectl("logs", "job/app", "-c", "app"))
		if got.Failed > 0 || got.Calls < 300 {
			t.Errorf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
		}
		pods, err := on.CoreV1().Pods(p.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=app"})
		if err != nil || len(pods.Items) != 1 {
			t.Fatalf("got %v (%v), want one pod", pods, err)
		}
		s := pods.Items[0].Status
		app, beside := s.ContainerStatuses[0].State.Terminated, s.InitContainerStatuses[0].State.Terminated
		if app == nil || beside == nil || beside.ExitCode != 0 || beside.FinishedAt.Before(&app.FinishedAt) || app.StartedAt.Before(&beside.StartedAt) {
			t.Errorf("got the application %+v and the client %+v, want the client to begin before and to end after it, well", app, beside)
		}
	})
}

// In 64 MiB, request bodies that are kept for retries once took all memory.
func TestUploadsFitInMemory(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "client.replicas=1", "--set", "flakyServer.faults.errorRate=0", "--set", "flakyServer.replicas=2", "--set", "client.resources.limits.memory=64Mi",
		"--set", "client.resources.requests.memory=32Mi", "--set", "config.policies.demo.retry.replayBuffer=1MiB", "--set", "flakyServer.faults.latency.distribution=fixed", "--set", "flakyServer.faults.latency.value=1s")
	url := p.forward("svc/client", "8080") + "/orders"
	body := strings.Repeat("x", 1_000_000)
	var calls sync.WaitGroup
	var answered atomic.Int32
	for range 150 {
		calls.Go(func() {
			if resp, _, err := try(t.Context(), http.MethodPost, url, body, map[string]string{"Idempotency-Key": "a"}); err == nil && resp.StatusCode > 0 {
				answered.Add(1)
			}
		})
	}
	calls.Wait()
	for _, pod := range p.pods("client") {
		if s := pod.Status.ContainerStatuses[0]; s.RestartCount > 0 {
			t.Errorf("the client was restarted %d times, want none: %+v", s.RestartCount, s.LastTerminationState)
		}
	}
	t.Logf("%d of 150 uploads were answered", answered.Load())
}
