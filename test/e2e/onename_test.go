//go:build e2e

package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// defaultRetries sets the default policy's number of attempts instead of the demo's.
var defaultRetries = []string{"--set", "config.policies.demo.retry.maxAttempts=3", "--set", "flakyServer.faults.errorRate=0"} //nolint:gochecknoglobals // constant

// One of three pods behind a ClusterIP is sick. From two seconds on, the other two serve nearly
// every call, whatever connections the client keeps.
func TestA1OneBadPodBehindAClusterIP(t *testing.T) {
	p := newPlace(t)
	p.install(append(defaultRetries, "--set", "flakyServer.replicas=3")...)
	sick := p.forward("pod/"+p.pods("flaky-server")[0].Name, "5001")
	before := p.load("http://client:8080/process", 100) // connections to all three are kept
	defer before()
	time.Sleep(3 * time.Second)
	for name, faults := range sicknesses {
		t.Run(name, func(t *testing.T) {
			p := place{t: t, namespace: p.namespace}
			putFaults(t, sick, faults)
			time.Sleep(2 * time.Second)
			stop := p.load("http://client:8080/process", 100)
			time.Sleep(10 * time.Second)
			got := stop()
			t.Logf("%+v", got)
			if got.Calls < 500 || got.Failed*100 > got.Calls*3 {
				t.Errorf("%d of %d calls failed, want at most 3 %%: %v", got.Failed, got.Calls, got.How)
			}
			putFaults(t, sick, "errorRate: 0")
			time.Sleep(3 * time.Second)
		})
	}
}

// Pods added under load serve within ten seconds, although kept connections lead to the old ones.
// The load keeps one connection busy, so about 45 connections are made meanwhile, each to one of
// six pods at random.
func TestE1NewPodsServe(t *testing.T) {
	p := newPlace(t)
	p.install(append(defaultRetries, "--set", "flakyServer.replicas=3")...)
	twice(t, func() string {
		p.kubectl("scale", "deployment/flaky-server", "--replicas=3") // a second try has six
		eventually(t, 2*time.Minute, "there are three pods", func() (bool, string) {
			n := len(p.pods("flaky-server"))
			return n == 3, fmt.Sprintf("%d pods", n)
		})
		old := map[string]bool{}
		for _, pod := range p.pods("flaky-server") {
			old[pod.Name] = true
		}
		stop := p.load("http://client:8080/process", 100)
		time.Sleep(2 * time.Second)
		p.kubectl("scale", "deployment/flaky-server", "--replicas=6")
		p.kubectl("rollout", "status", "deployment/flaky-server", "--timeout=3m")
		ready := time.Now()
		time.Sleep(12 * time.Second) // two of them for the cluster's network to route to the new pods
		idle, counts := []string{}, map[string]int{}
		pods := p.pods("flaky-server")
		for _, pod := range pods {
			n := served(t, p.forward("pod/"+pod.Name, "5001"))
			counts[pod.Name] = n
			if !old[pod.Name] && n == 0 {
				idle = append(idle, pod.Name)
			}
		}
		asked := time.Since(ready).Round(time.Second)
		got := stop()
		t.Logf("asked within %v after they were ready: %+v, requests by pod: %v", asked, got, counts)
		if len(pods) != 6 || len(idle) > 0 {
			t.Errorf("of %d pods, %v have served nothing in %v, want 6 pods that all serve", len(pods), idle, asked)
		}
		if got.Failed > 0 {
			return fmt.Sprintf("%d of %d calls failed, want none: %v", got.Failed, got.Calls, got.How)
		}
		return ""
	})
}

// sicknesses are faults documents, each of a pod that fails all calls.
var sicknesses = map[string]string{ //nolint:gochecknoglobals // a table
	"answers 503": "errorRate: 1\nstatuses: [503]",
	"hangs":       "hangRate: 1",
	"resets":      "resetRate: 1",
}

// putFaults replaces the faults of a flaky-server.
func putFaults(t *testing.T, admin, faults string) {
	t.Helper()
	if resp, text := request(t, http.MethodPut, admin+"/faults", faults, nil); resp.StatusCode != http.StatusOK {
		t.Fatalf("PUT /faults: got status %s, want 200\n%s", resp.Status, text)
	}
}

// served returns the number of requests that a flaky-server has received.
func served(t *testing.T, admin string) (n int) {
	t.Helper()
	for line := range strings.Lines(get(t, admin+"/metrics")) {
		if !strings.HasPrefix(line, "rebound_faults_total{") {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &value); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		n += int(value)
	}
	return n
}
