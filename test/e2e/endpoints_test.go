//go:build e2e

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rate returns the number of calls a second while endpoints change: E2E_RATE, or what the machine
// has room for. The whole cluster, the callers and what changes it share its processors. Two are
// enough for 500 only if nothing else keeps them busy. Otherwise all pods may stand still for a
// moment, and the client takes that for an upstream that hangs.
func rate(t *testing.T) int {
	t.Helper()
	text := os.Getenv("E2E_RATE")
	switch {
	case text == "" && runtime.NumCPU() < 4:
		return 200
	case text == "":
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("E2E_RATE must be a number of calls a second, got %q", text)
	}
	return n
}

// headless installs the chart with three flaky-servers behind a headless Service. All nodes are one
// machine, and pods that get no processor time are overloaded, whatever happens to their nodes. So
// they get a share of it, small enough for one node to hold all of them.
func headless(t *testing.T, args ...string) place {
	t.Helper()
	p := newPlace(t)
	p.install(append([]string{"--values", filepath.Join(root, "helm", "rebound", "ci", "headless-values.yaml"), "--set", "client.replicas=1",
		"--set", "client.resources.requests.cpu=200m", "--set", "flakyServer.resources.requests.cpu=100m"}, args...)...)
	return p
}

// settled waits until n flaky-servers are ready and there are no others.
func (p place) settled(n int) {
	p.t.Helper()
	p.kubectl("rollout", "status", "deployment/flaky-server", "--timeout=3m")
	eventually(p.t, 2*time.Minute, "the old pods are gone", func() (bool, string) { return len(p.pods("flaky-server")) == n, "" })
}

// losesNoCall makes calls while change happens, after which there are n flaky-servers. No call may
// fail, and after six seconds all of them serve. Otherwise it says what was missed.
func (p place) losesNoCall(name string, change func(), n int) (missed string) {
	p.t.Helper()
	rate := rate(p.t)
	stop := p.load("http://client:8080/process", rate)
	time.Sleep(2 * time.Second)
	change()
	p.settled(n)
	time.Sleep(6 * time.Second)
	idle := []string{}
	for _, pod := range p.pods("flaky-server") {
		if served(p.t, p.forward("pod/"+pod.Name, "5001")) == 0 {
			idle = append(idle, pod.Name)
		}
	}
	got := stop()
	p.t.Logf("%s: %+v", name, got)
	if got.Failed == 0 && got.Calls >= 8*rate && len(idle) == 0 {
		return ""
	}
	p.t.Logf("what the client logged, by tenth of a second:\n%s", p.failures())
	return fmt.Sprintf("%s: %d of %d calls failed, and %v served nothing, want none: %v", name, got.Failed, got.Calls, idle, got.How)
}

// inDNS asks the cluster's DNS for a name's addresses until stop is called, which returns when
// those that left had left all DNS servers. Each of the servers has a cache of its own.
func (p place) inDNS(name string) (stop func() map[string]time.Time) {
	p.t.Helper()
	servers, err := on.CoreV1().Pods("kube-system").List(p.t.Context(), metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	if err != nil || len(servers.Items) == 0 {
		p.t.Fatalf("found %d DNS servers (%v), want some", len(servers.Items), err)
	}
	var resolvers []*net.Resolver
	for _, server := range servers.Items {
		url := place{t: p.t, namespace: server.Namespace}.forward("pod/"+server.Name, "53")
		resolvers = append(resolvers, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
		}})
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	// For each server the addresses that it has named, and when its first answer without one came.
	left := make([]map[string]time.Time, len(resolvers))
	var asking sync.WaitGroup
	for i, r := range resolvers {
		left[i] = map[string]time.Time{}
		asking.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				addresses, err := r.LookupHost(ctx, name+"."+p.namespace+".svc.cluster.local.")
				now := time.Now()
				if err != nil {
					if ctx.Err() == nil {
						p.t.Logf("%s: %v", name, err)
					}
					continue
				}
				for a, since := range left[i] {
					if since.IsZero() && !slices.Contains(addresses, a) {
						left[i][a] = now
					}
				}
				for _, a := range addresses {
					left[i][a] = time.Time{}
				}
			}
		})
	}
	return func() map[string]time.Time {
		cancel()
		asking.Wait()
		latest := map[string]time.Time{}
		for _, of := range left {
			for a, since := range of {
				if since.After(latest[a]) {
					latest[a] = since
				}
			}
		}
		for _, of := range left {
			for a, since := range of {
				if since.IsZero() { // it is still there
					delete(latest, a)
				}
			}
		}
		return latest
	}
}

// lines calls do for each line of the client's log with a message.
func (p place) lines(msg string, do func(line logLine)) {
	p.t.Helper()
	for text := range strings.Lines(p.kubectl("logs", "--tail=-1", "-l", "app.kubernetes.io/component=client")) {
		var line logLine
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == msg {
			do(line)
		}
	}
}

type logLine struct {
	Time     time.Time     `json:"time"`
	Msg      string        `json:"msg"`
	Reason   string        `json:"reason"`
	Endpoint string        `json:"endpoint"`
	Duration time.Duration `json:"duration"` // until the response's headers
}

// failures returns how many calls the client logged that were not ok, by time and reason.
func (p place) failures() string {
	p.t.Helper()
	counts := map[string]int{}
	p.lines("call", func(call logLine) {
		if call.Reason != "ok" {
			counts[call.Time.Format("15:04:05.0 ")+call.Reason]++
		}
	})
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintln(&text, key, counts[key])
	}
	return text.String()
}

// One of three known pods is sick. The callers do not notice, and it gets next to no calls: from
// three seconds on, as hanging and slow calls have to end before anybody can know.
func TestOneBadEndpoint(t *testing.T) {
	p := headless(t)
	var admins []string
	for _, pod := range p.pods("flaky-server") {
		admins = append(admins, p.forward("pod/"+pod.Name, "5001"))
	}
	sick := admins[0]
	ofAll := func() (n int) {
		for _, admin := range admins {
			n += served(t, admin)
		}
		return n
	}
	admin := p.forward("svc/client", "8081")
	kinds := maps.Clone(sicknesses)
	kinds["is slow"] = "latency: {distribution: fixed, value: 1s}"
	kinds["truncates bodies"] = "truncateRate: 1"
	for name, faults := range kinds {
		t.Run(name, func(t *testing.T) {
			p := place{t: t, namespace: p.namespace}
			twice(t, func() string {
				stopBefore := p.load("http://client:8080/process", 200)
				putFaults(t, sick, faults)
				time.Sleep(3 * time.Second)
				stopBefore()
				toSick, toAll := served(t, sick), ofAll()
				stop := p.load("http://client:8080/process", 200)
				time.Sleep(10 * time.Second)
				got := stop()
				toSick, toAll = served(t, sick)-toSick, ofAll()-toAll
				putFaults(t, sick, "errorRate: 0")
				stopAfter := p.load("http://client:8080/process", 200) // a probe is a call
				defer stopAfter()
				eventually(t, time.Minute, "the pod is in use again", func() (bool, string) {
					text := get(t, admin+"/breakers")
					return !strings.Contains(strings.ReplaceAll(text, " ", ""), `"ejected":true`), text
				})
				calls := float64(got.Calls)
				t.Logf("%+v, %.4f attempts a call, %.4f at the sick pod", got, float64(toAll)/calls, float64(toSick)/calls)
				if got.Calls < 1000 || got.Failed*1000 > got.Calls || float64(toAll) > 1.02*calls || float64(toSick) > 0.01*calls {
					return fmt.Sprintf("%d of %d calls failed, %d attempts, %d at the sick pod, want at most 0.1 %%, 1.02 a call, and 1 %%: %v",
						got.Failed, got.Calls, toAll, toSick, got.How)
				}
				return ""
			})
		})
	}
	if text := get(t, admin+"/breakers"); strings.Count(text, `"address"`) != 3 {
		t.Errorf("/breakers: got %s, want three endpoints", text)
	}
}

// Pods come and go under load, and no call is lost. New ones serve within six seconds.
func TestEndpointsComeAndGo(t *testing.T) {
	p := headless(t, "--set", "flakyServer.replicas=2")
	server := "deployment/flaky-server"
	scale := func(n string) func() { return func() { p.kubectl("scale", server, "--replicas="+n) } }
	twice(t, func() string {
		scale("2")()
		p.settled(2)
		for _, step := range []struct {
			name   string
			change func()
			n      int // of the pods after it
		}{
			{"2 to 4", scale("4"), 4},
			{"4 to 2", scale("2"), 2},
			{"rolling restart", func() { p.kubectl("rollout", "restart", server) }, 2},
			{"a pod killed", func() { p.kubectl("delete", "pod", p.pods("flaky-server")[0].Name, "--force", "--grace-period=0") }, 2},
		} {
			if missed := p.losesNoCall(step.name, step.change, step.n); missed != "" {
				return missed
			}
		}
		return ""
	})
}

// A pod that has left DNS gets no attempt more than a second later.
func TestNoCallAfterDNS(t *testing.T) {
	p := headless(t, "--set", "flakyServer.replicas=4", "--set-json", `client.extraArgs=["--log-level=debug"]`)
	twice(t, func() string {
		p.kubectl("scale", "deployment/flaky-server", "--replicas=4") // a second try has two
		p.settled(4)
		stopAsking := p.inDNS("flaky-server-headless")
		began := time.Now()
		stop := p.load("http://client:8080/process", min(100, rate(t))) // each attempt is a line of the log
		time.Sleep(2 * time.Second)
		p.kubectl("scale", "deployment/flaky-server", "--replicas=2")
		p.settled(2)
		p.kubectl("rollout", "restart", "deployment/flaky-server")
		p.settled(2)
		time.Sleep(3 * time.Second)
		got := stop()
		left := stopAsking()
		latest := map[string]time.Duration{} // of an attempt, after its address had left
		attempts := 0
		p.lines("attempt", func(attempt logLine) {
			if attempt.Time.Before(began) { // of the first try
				return
			}
			attempts++
			address, _, _ := net.SplitHostPort(attempt.Endpoint)
			if since, gone := left[address]; gone {
				latest[address] = max(latest[address], attempt.Time.Add(-attempt.Duration).Sub(since))
			}
		})
		t.Logf("%+v, %d attempts, the last one after each of the %d addresses that left: %v", got, attempts, len(latest), latest)
		if got.Failed > 0 || attempts < got.Calls || len(latest) != 4 {
			return fmt.Sprintf("%d of %d calls failed, %d attempts, %d addresses left, want none, at least as many, and 4: %v", got.Failed, got.Calls, attempts, len(latest), got.How)
		}
		for address, after := range latest {
			if after > time.Second {
				return fmt.Sprintf("%s got an attempt %v after it had left DNS, want none after 1s", address, after)
			}
		}
		return ""
	})
}

// A node with flaky-servers is drained under load, and no call is lost. Callers and client are on
// the other node.
func TestNodeDrain(t *testing.T) {
	drained, other := nodes(t)
	p := headless(t, "--set", "flakyServer.replicas=4", "--set-json", `client.nodeSelector={"kubernetes.io/hostname":"`+other+`"}`,
		"--set-json", "flakyServer.affinity="+apart)
	p.callers = map[string]string{corev1.LabelHostname: other}
	there := func() (n int) {
		for _, pod := range p.pods("flaky-server") {
			if pod.Spec.NodeName == drained {
				n++
			}
		}
		return n
	}
	defer func() { p.kubectl("uncordon", drained) }()
	twice(t, func() string {
		if n := there(); n == 4 {
			t.Fatalf("%d of 4 flaky-servers are on %s, want some", n, drained)
		} else if n == 0 { // a second try
			p.kubectl("uncordon", drained)
			p.kubectl("rollout", "restart", "deployment/flaky-server")
			p.settled(4)
		}
		if there() == 0 {
			t.Fatalf("no flaky-server is on %s, want some", drained)
		}
		missed := p.losesNoCall("drain", func() {
			p.kubectl("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=3m")
		}, 4)
		if n := there(); n != 0 {
			t.Errorf("%d flaky-servers are on %s after its drain, want none", n, drained)
		}
		return missed
	})
}

// apart is the affinity of flaky-servers that avoid each other's nodes. Otherwise one node may have
// nearly all of them, and those on the other one cannot serve all calls.
const apart = `{"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": {
	"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "flaky-server"}}}}]}}`

// nodes returns the names of a node that may be drained and of another one. Other people's pods may
// be on the nodes of a cluster that is not kind's.
func nodes(t *testing.T) (drained, other string) {
	t.Helper()
	list, err := on.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if on.kind == "" || len(list.Items) < 2 {
		t.Skip("needs a kind cluster with two nodes")
	}
	for _, node := range list.Items {
		if _, ok := node.Labels["node-role.kubernetes.io/control-plane"]; ok {
			other = node.Name
		} else {
			drained = node.Name
		}
	}
	return drained, other
}
