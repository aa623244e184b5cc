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
	"errors"
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
	"sigs.k8s.io/yaml"
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

// definitions tells a kind cluster of other projects' kinds, and of the classes that the scenarios
// name, until the test ends. It changes none that are there, and no cluster that may have others'
// objects.
func (p place) definitions() {
	p.t.Helper()
	if on.kind == "" {
		return
	}
	text, err := os.ReadFile(filepath.Join(root, "test", "chart", "testdata", "definitions.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	var modules map[string][]string
	if err := yaml.UnmarshalStrict(text, &modules); err != nil {
		p.t.Fatal(err)
	}
	var files, kinds []string
	for module, paths := range modules {
		// Their versions are those of the chart's tests, which may not have run yet.
		out, err := output(p.t.Context(), "go", "-C", filepath.Join(root, "test", "chart"), "mod", "download", "-json", module)
		var found struct{ Dir string }
		if err == nil {
			err = json.Unmarshal([]byte(out), &found)
		}
		if err != nil {
			p.t.Fatalf("%s: %v", module, err)
		}
		for _, path := range paths {
			files = append(files, filepath.Join(found.Dir, path))
			group, plural, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".yaml"), "_")
			kinds = append(kinds, plural+"."+group)
		}
	}
	for i, class := range []string{
		"{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: standard}, value: 0}",
		"{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: edge}, value: 0}",
		"{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: gvisor}, handler: runsc}",
		"{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: kata}, handler: kata}",
	} {
		file := filepath.Join(p.t.TempDir(), fmt.Sprintf("class-%d.yaml", i))
		if err := os.WriteFile(file, []byte(class), 0o600); err != nil {
			p.t.Fatal(err)
		}
		files = append(files, file)
	}
	for _, file := range files {
		// kubectl apply would write an annotation, for which some definitions are too long.
		_, err := output(p.t.Context(), "kubectl", p.kubectlArgs([]string{"create", "-f", file})...)
		if err != nil && strings.Contains(err.Error(), "AlreadyExists") {
			continue
		}
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() {
			if _, err := output(context.WithoutCancel(p.t.Context()), "kubectl", p.kubectlArgs([]string{"delete", "-f", file, "--ignore-not-found", "--wait=false"})...); err != nil {
				p.t.Error(err)
			}
		})
	}
	eventually(p.t, time.Minute, "the kinds are served", func() (bool, string) {
		out, err := output(p.t.Context(), "kubectl", p.kubectlArgs([]string{"api-resources", "--cached=false", "-o", "name"})...)
		if err != nil {
			return false, err.Error()
		}
		served := strings.Fields(out)
		for _, name := range kinds {
			if !slices.Contains(served, name) {
				return false, name
			}
		}
		return true, ""
	})
}

// The API server accepts what the chart renders from every file of values. A kind cluster gets the
// definitions of the kinds that a bare cluster lacks; in another one those are left out.
func TestEveryScenarioIsAccepted(t *testing.T) {
	p := newPlace(t)
	p.definitions()
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
			// A cluster of one family of addresses refuses the other one. test/chart checks what is
			// rendered for both.
			all = strings.ReplaceAll(all, `ipFamilies: ["IPv6","IPv4"]`, `ipFamilies: ["IPv4"]`)
			if on.kind == "" { // and may lack these classes
				all = strings.NewReplacer("priorityClassName: standard", "", "runtimeClassName: kata", "").Replace(all)
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
	const share = `client.extraEnv=[{"name":"OTEL_TRACES_SAMPLER","value":"traceidratio"},{"name":"OTEL_TRACES_SAMPLER_ARG","value":"10%"}]`
	if said := p.fails("upgrade", "rebound", chart, "--reuse-values", "--set-json", share, "--timeout", "3m"); !strings.Contains(said, "OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1") && !strings.Contains(p.kubectl("logs", "job/client-check"), "OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1") {
		t.Errorf("helm says %s, want the variable", said)
	}
	const rates = `flakyServer.faults={"errorRate":0.6,"resetRate":0.6}`
	if said := p.fails("upgrade", "rebound", chart, "--reuse-values", "--set-json", rates, "--timeout", "3m"); !strings.Contains(said, "flaky-server-check") || !strings.Contains(said, "add up to at most 1") {
		t.Errorf("helm says %s, want that the check of the faults failed, and flaky-server's words", said)
	}
	if log := p.kubectl("logs", "job/flaky-server-check"); !strings.Contains(log, "add up to at most 1") {
		t.Errorf("the check of the faults says %s, want flaky-server's words", log)
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

// pair returns a self-signed certificate for a name, and its key, in PEM.
func pair(t *testing.T, name string, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
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

// A renewed certificate of the data port is served without a restart, and costs no call: neither on
// new connections nor on those that began with the old one.
func TestRotatedCertificate(t *testing.T) {
	twice(t, func() string { return rotateCertificate(t) })
}

// rotateCertificate does so in a place of its own, and returns which calls were lost.
func rotateCertificate(t *testing.T) (missed string) {
	p := newPlace(t)
	trusted := x509.NewCertPool()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{}}
	renew := func(serial int64) {
		secret.Data["tls.crt"], secret.Data["tls.key"] = pair(t, "localhost", serial)
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
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return 0, err
		}
		if resp.StatusCode != http.StatusOK {
			return 0, errors.New(resp.Status)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64(), nil
	}
	eventually(t, time.Minute, "the first certificate is served", func() (bool, string) { // once the upstream is reached
		got, err := serial()
		if err == nil && got != 1 {
			t.Fatalf("got certificate %d, want the first one", got)
		}
		return err == nil, fmt.Sprint(err)
	})
	stop := p.load("https://client:8080/process", 100, "-any-certificate")
	time.Sleep(2 * time.Second) // calls over connections with the old one
	if _, err := on.CoreV1().Secrets(p.namespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p.kubectl("annotate", "pod", pod, "now=yes") // the kubelet looks at once
	calls := 0
	eventually(t, 2*time.Minute, "the renewed certificate is served", func() (bool, string) {
		calls++
		got, err := serial()
		if err != nil {
			missed = fmt.Sprintf("call %d on a new connection: %v", calls, err)
		}
		return got == 2 || err != nil, fmt.Sprint(got)
	})
	time.Sleep(2 * time.Second) // the kept connections go on
	got := stop()
	t.Logf("%+v", got)
	if got.Failed > 0 || got.Calls < 200 {
		missed += fmt.Sprintf(" %d of %d calls over kept connections, want none of at least 200: %v", got.Failed, got.Calls, got.How)
	}
	if now := p.pods("client"); len(now) != 1 || now[0].Name != pod || now[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("got pods %v, want %s without a restart", now, pod)
	}
	t.Logf("%d calls until the renewed certificate was served", calls)
	return missed
}

// The CA of an upstream, the client certificate and a header for it come from a Secret. When it is
// renewed, and then the upstream's own certificate, nothing restarts, and no call is lost.
func TestRotatedUpstream(t *testing.T) {
	twice(t, func() string { return rotateUpstream(t) })
}

// serves runs the load image as an upstream with a Service of the same name, at port 8080. If
// secret is not empty, /etc/files has the files of that Secret.
func (p place) serves(name, args, secret string) {
	p.t.Helper()
	mounts, volumes := "[]", "[]"
	if secret != "" {
		mounts, volumes = "[{name: files, mountPath: /etc/files, readOnly: true}]", "[{name: files, secret: {secretName: "+secret+"}}]"
	}
	p.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{port: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      automountServiceAccountToken: false
      securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: %[1]s
          image: %[2]s
          args: %[3]s
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          resources: {requests: {cpu: 100m}}
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          volumeMounts: %[4]s
      volumes: %[5]s
`, name, loadImage, args, mounts, volumes))
	p.kubectl("rollout", "status", "deployment/"+name, "--timeout=2m")
}

// rotateUpstream does so in a place of its own, and returns which calls were lost.
func rotateUpstream(t *testing.T) (missed string) {
	p := newPlace(t)
	newSecret := func(name string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string][]byte{}}
	}
	server, caller := newSecret("upstream"), newSecret("orders")
	oldCert, oldKey := pair(t, "upstream", 1)
	newCert, newKey := pair(t, "upstream", 2)
	oldCaller, oldCallerKey := pair(t, "orders", 11)
	newCaller, newCallerKey := pair(t, "orders", 12)
	// The upstream knows both callers all the time, as one does that lets them change.
	server.Data["clients.crt"], server.Data["tokens"] = slices.Concat(oldCaller, newCaller), []byte("first second")
	server.Data["tls.crt"], server.Data["tls.key"] = oldCert, oldKey
	caller.Data["ca.crt"], caller.Data["token"] = oldCert, []byte("first")
	caller.Data["tls.crt"], caller.Data["tls.key"] = oldCaller, oldCallerKey
	for _, secret := range []*corev1.Secret{server, caller} {
		if _, err := on.CoreV1().Secrets(p.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p.serves("upstream", `[-serve, ":8080", -files, /etc/files]`, "upstream")
	// On a busy machine everything may pause for a moment.
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(`
flakyServer: {enabled: false}
config:
  routes: [{name: orders, match: /, upstream: orders}]
  upstreams: {orders: {url: "https://upstream:8080"}}
  policies: {default: {timeout: 15s, attemptTimeout: 5s}}
client:
  replicas: 1
  upstreams: {orders: {ca: {secret: orders}, certificate: {secret: orders}, headers: {Authorization: {secret: orders, key: token}}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.install("--values", values)
	pod := p.pods("client")[0].Name
	stop := p.load("http://client:8080/", 100)
	says := func(line, selector string) {
		t.Helper()
		polls := 0
		eventually(t, 2*time.Minute, "the upstream says "+line, func() (bool, string) {
			if polls++; polls%5 == 1 { // the kubelet looks at once
				p.kubectl("annotate", "pod", "-l", selector, fmt.Sprintf("look=%d", polls), "--overwrite")
			}
			log := p.kubectl("logs", "deployment/upstream", "--tail=-1")
			return slices.Contains(strings.Split(log, "\n"), line), log
		})
	}
	renew := func(secret *corev1.Secret) {
		t.Helper()
		if _, err := on.CoreV1().Secrets(p.namespace).Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const gateway = "app.kubernetes.io/component=client"
	says("caller 11 first", gateway)
	time.Sleep(2 * time.Second)

	caller.Data["ca.crt"], caller.Data["token"] = slices.Concat(oldCert, newCert), []byte("second")
	caller.Data["tls.crt"], caller.Data["tls.key"] = newCaller, newCallerKey
	renew(caller)
	says("caller 12 second", gateway)

	server.Data["tls.crt"], server.Data["tls.key"] = newCert, newKey
	renew(server)
	says("serves 2", "app=upstream")
	time.Sleep(2 * time.Second) // calls over connections to the new certificate

	got := stop()
	t.Logf("%+v", got)
	if now := p.pods("client"); len(now) != 1 || now[0].Name != pod || now[0].Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("got pods %v, want %s without a restart", now, pod)
	}
	if got.Failed > 0 || got.Calls < 200 {
		return fmt.Sprintf("%d of %d calls failed, want none of at least 200: %v", got.Failed, got.Calls, got.How)
	}
	return ""
}

// Metrics can be scraped whatever the type of the Service of the routes is, and Grafana's sidecar
// finds the dashboard.
func TestMetricsOfALoadBalancer(t *testing.T) {
	p := newPlace(t)
	p.helm("install", "rebound", chart, "--set", "client.service.type=LoadBalancer", "--set", "client.service.admin=false", "--set", "client.service.externalTrafficPolicy=Local", "--set", "grafanaDashboard.enabled=true",
		"--set", "flakyServer.faults.errorRate=0")
	p.kubectl("rollout", "status", "deployment/client", "--timeout=3m")
	p.kubectl("rollout", "status", "deployment/flaky-server", "--timeout=3m")
	if text := get(t, p.forward("svc/client-metrics", "8081")+"/metrics"); !strings.Contains(text, "\nrebound_calls_active ") {
		t.Errorf("got\n%.500s\nwant rebound_calls_active", text)
	}
	boards, err := on.CoreV1().ConfigMaps(p.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "grafana_dashboard=1"})
	if err != nil || len(boards.Items) != 1 {
		t.Fatalf("got %v (%v), want one dashboard", boards, err)
	}
	var board struct {
		Title  string
		Panels []struct{ Title string }
	}
	if err := json.Unmarshal([]byte(boards.Items[0].Data["rebound.json"]), &board); err != nil || board.Title == "" || len(board.Panels) == 0 {
		t.Errorf("got the dashboard %+v (%v), want one with a title and panels", board, err)
	}
	p.helm("test", "rebound", "--timeout", "1m")
}

// A platform's own containers, users, names, labels, registry and probes are those of running pods,
// also behind network policies, and its objects are there.
func TestRoomForThePlatform(t *testing.T) {
	version, err := appVersion()
	if err != nil {
		t.Fatal(err)
	}
	const user = 12345
	// docker.io has the images that the cluster was given, by their whole names.
	text := fmt.Sprintf(`
nameOverride: edge
imageRegistry: docker.io
extraObjects:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: "{{ .Release.Name }}-more"}, data: {namespace: "{{ .Release.Namespace }}"}}
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
	if got, image := pod.Labels["app.kubernetes.io/name"], pod.Spec.Containers[0].Image; got != "edge" || image != "docker.io/rebound/client:"+version {
		t.Errorf("got the label %s and the image %s, want edge and one of docker.io", got, image)
	}
	if more, err := on.CoreV1().ConfigMaps(p.namespace).Get(t.Context(), "rebound-more", metav1.GetOptions{}); err != nil || more.Data["namespace"] != p.namespace {
		t.Errorf("got %v (%v), want a ConfigMap that names %s", more, err, p.namespace)
	}
	// The name, the container beside the client, and the policies for the caller's way.
	get(t, p.forward("svc/client", "8080")+"/process")
	p.helm("test", "rebound", "--timeout", "1m")
}

// A team's HTTPRoute is the client's configuration: without its retries many more calls would fail.
// What is not carried over is reported.
func TestHTTPRouteAsConfiguration(t *testing.T) {
	p := newPlace(t)
	p.install("--set", "flakyServer.faults.errorRate=0.3", "--set", "client.replicas=1")
	route := fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: %s}
spec:
  rules:
    - matches: [{path: {type: Exact, value: /process}}]
      timeouts: {request: 15s}
      retry: {attempts: 8, codes: [503]}
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Team, value: shop}]}}]
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
		// The retry budget may refuse some retries. Without any, 30 % would fail.
		if got := result(t, text); got.Failed*10 > got.Calls || got.Calls < 40 {
			t.Errorf("%d of %d calls failed, want at most 10 %% of at least 40: %v", got.Failed, got.Calls, got.How)
		}
		return true, ""
	})
	check := exec.CommandContext(t.Context(), "kubectl", p.kubectlArgs([]string{"exec", "deployment/app", "-c", "rebound", "--", "/client", "--config=/etc/rebound/rebound.yaml", "--check"})...)
	said, err := check.CombinedOutput()
	for _, want := range []string{"filters: not carried over", "maxAttempts: 9\n"} {
		if err != nil || !strings.Contains(string(said), want) {
			t.Errorf("client --check says (%v)\n%s\nwant %q", err, said, want)
		}
	}
}

// The chart takes the same file in place of config. Without a retry in it, a call has one attempt,
// and as long as it takes. One that the client refuses changes nothing.
func TestChartWithHTTPRoutes(t *testing.T) {
	p := newPlace(t)
	file := filepath.Join(t.TempDir(), "routes.yaml")
	write := func(field string) {
		t.Helper()
		text := `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  rules:
    - ` + field + `: [{name: canary, port: 80, weight: 1}, {name: flaky-server, port: 5000, weight: 99}]
`
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("backendRefs")
	// Longer than an attempt, or a call, may take by default.
	p.install("--set-file", "httpRoutes="+file, "--set", "client.replicas=1,flakyServer.faults.errorRate=0,flakyServer.faults.latency.distribution=fixed,flakyServer.faults.latency.value=6s")
	address := p.forward("svc/client", "8080") + "/process"
	var resp *http.Response
	eventually(t, time.Minute, "a node knows the new pods' addresses", func() (bool, string) {
		var body string
		var err error
		resp, body, err = try(t.Context(), http.MethodGet, address, "", nil)
		return err == nil && !strings.Contains(body, "dial_error"), fmt.Sprintf("%v (%v), %s", resp, err, body)
	})
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Attempt-Count") != "1" {
		t.Errorf("a call of 6 s: got %v, want 200 by one attempt", resp)
	}
	if log := p.kubectl("logs", "deployment/client"); !strings.Contains(log, "flaky-server of weight 99 gets what is for canary of weight 1") {
		t.Errorf("the log says %s, want what is not carried over", log)
	}
	before := p.configMap()
	write("backendReffs")
	if said := p.fails("upgrade", "rebound", chart, "--reuse-values", "--set-file", "httpRoutes="+file, "--timeout", "3m"); !strings.Contains(said, "backendReffs") {
		t.Errorf("helm says %s, want the client's words", said)
	}
	if got := p.configMap(); got != before {
		t.Errorf("new pods mount %s, want %s as before", got, before)
	}
	p.helm("test", "rebound", "--timeout", "1m")
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
	pods := func(t *testing.T) []corev1.Pod {
		t.Helper()
		list, err := on.CoreV1().Pods(p.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=app"})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	// ends makes calls from a pod of the example, and ends it by end.
	ends := func(t *testing.T, example string, end func()) {
		p := place{t: t, namespace: p.namespace}
		twice(t, func() string {
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
			status := pods(t)[0].Status
			if app, beside := status.ContainerStatuses[0].State.Running, status.InitContainerStatuses[0].State.Running; app == nil || beside == nil || app.StartedAt.Before(&beside.StartedAt) {
				t.Errorf("got the application %+v and the client %+v, want both to run, and the client first", app, beside)
			}
			app, beside := follow("app"), follow("rebound")
			time.Sleep(3 * time.Second)
			end()
			log, clientLog := <-app, <-beside
			lines := strings.Split(strings.TrimSpace(log), "\n")
			at, last, _ := strings.Cut(lines[len(lines)-1], " ")
			got := result(t, last)
			t.Logf("%+v", got)
			// The client's last line is from its own end, which comes after the application's last
			// line.
			clientLines := strings.Split(strings.TrimSpace(clientLog), "\n")
			if ended, _, _ := strings.Cut(clientLines[len(clientLines)-1], " "); ended < at {
				t.Errorf("the client ended at %s, want it after the application, at %s:\n%s", ended, at, clientLog)
			}
			p.kubectl("delete", "deployment/app", "--ignore-not-found")
			eventually(t, 2*time.Minute, "the pods are gone", func() (bool, string) { return len(pods(t)) == 0, "" })
			if got.Failed > 0 || got.Calls < 200 {
				return fmt.Sprintf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
			}
			return ""
		})
	}
	t.Run("the pod is deleted", func(t *testing.T) {
		p := place{t: t, namespace: p.namespace}
		ends(t, example, func() { p.kubectl("delete", "deployment/app", "--wait=false") })
	})
	t.Run("the node is drained", func(t *testing.T) {
		drained, other := nodes(t)
		p := place{t: t, namespace: p.namespace}
		at := func(node string) string { return `{"kubernetes.io/hostname": "` + node + `"}` }
		p.kubectl("patch", "deployment/flaky-server", "-p", `{"spec": {"template": {"spec": {"nodeSelector": `+at(other)+`}}}}`)
		p.kubectl("rollout", "status", "deployment/flaky-server", "--timeout=3m")
		defer func() { p.kubectl("uncordon", drained) }()
		const before = "      automountServiceAccountToken: false\n"
		there := strings.Replace(example, before, before+"      nodeSelector: "+at(drained)+"\n", 1)
		ends(t, there, func() {
			p.kubectl("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=3m")
			p.kubectl("uncordon", drained) // for a second try
		})
	})
	t.Run("the application ends", func(t *testing.T) {
		p := place{t: t, namespace: p.namespace}
		spec := strings.NewReplacer("kind: Deployment", "kind: Job", "apiVersion: apps/v1", "apiVersion: batch/v1", "  selector:\n    matchLabels: {app: app}\n", "",
			`"100"]`, `"100", -for, 5s]`, "      automountServiceAccountToken: false\n", "      automountServiceAccountToken: false\n      restartPolicy: Never\n").Replace(example)
		twice(t, func() string {
			p.kubectl("delete", "job/app", "--ignore-not-found", "--cascade=foreground") // of the first try
			p.apply(spec)
			// A client among the containers would keep the Job running.
			p.kubectl("wait", "--for=condition=complete", "job/app", "--timeout=3m")
			got := result(t, p.kubectl("logs", "job/app", "-c", "app"))
			pods, err := on.CoreV1().Pods(p.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=app"})
			if err != nil || len(pods.Items) != 1 {
				t.Fatalf("got %v (%v), want one pod", pods, err)
			}
			s := pods.Items[0].Status
			app, beside := s.ContainerStatuses[0].State.Terminated, s.InitContainerStatuses[0].State.Terminated
			if app == nil || beside == nil || beside.ExitCode != 0 || beside.FinishedAt.Before(&app.FinishedAt) || app.StartedAt.Before(&beside.StartedAt) {
				t.Errorf("got the application %+v and the client %+v, want the client to begin before and to end after it, well", app, beside)
			}
			if got.Failed > 0 || got.Calls < 300 {
				return fmt.Sprintf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
			}
			return ""
		})
	})
}

// In 64 MiB, request bodies that are kept for retries once took all memory.
func TestUploadsFitInMemory(t *testing.T) {
	p := newPlace(t)
	p.serves("uploads", `[-uploads, ":8080"]`, "")
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte(`
flakyServer: {enabled: false}
config:
  routes: [{name: uploads, match: POST /, upstream: "http://uploads:8080"}]
  policies: {default: {timeout: 2m, attemptTimeout: 2m, retry: {replayBuffer: 1MiB}}}
client: {replicas: 1, resources: {limits: {memory: 64Mi}, requests: {memory: 32Mi}}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.install("--values", values)
	// Not over kubectl port-forward: it is slow on a busy machine, and ends when an upload is
	// refused early and resets its connection.
	got := p.load("http://client:8080/", 150, "-post", "1000000", "-for", "1s")()
	t.Logf("%+v", got)
	for _, pod := range p.pods("client") {
		if s := pod.Status.ContainerStatuses[0]; s.RestartCount > 0 {
			t.Errorf("the client was restarted %d times, want none: %+v", s.RestartCount, s.LastTerminationState)
		}
	}
	if got.Calls < 100 || got.Failed > 0 {
		t.Errorf("%d of %d uploads failed, want none of at least 100: %v", got.Failed, got.Calls, got.How)
	}
}
