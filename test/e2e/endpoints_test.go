//go:build e2e

package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// headless installs the chart with three flaky-servers behind a headless Service.
func headless(t *testing.T) place {
	t.Helper()
	p := newPlace(t)
	p.install("--values", filepath.Join(root, "helm", "rebound", "ci", "headless-values.yaml"), "--set", "client.replicas=1")
	return p
}

// One of three known pods is sick. The callers do not notice, and it gets next to no calls.
func TestOneBadEndpoint(t *testing.T) {
	p := headless(t)
	sick := p.forward("pod/"+p.pods("flaky-server")[0].Name, "5001")
	for name, faults := range sicknesses {
		t.Run(name, func(t *testing.T) {
			p := place{t: t, namespace: p.namespace}
			putFaults(t, sick, faults)
			before := served(t, sick)
			stop := p.load("http://client:8080/process", 200)
			time.Sleep(10 * time.Second)
			got := stop()
			share := float64(served(t, sick)-before) / float64(got.Calls)
			t.Logf("%+v, the sick pod got %.4f of the calls", got, share)
			if got.Calls < 1000 || got.Failed*1000 > got.Calls || share > 0.02 {
				t.Errorf("%d of %d calls failed, and the sick pod got %.4f of them, want at most 0.1 %% and 2 %%: %v", got.Failed, got.Calls, share, got.How)
			}
			putFaults(t, sick, "errorRate: 0")
			time.Sleep(3 * time.Second)
		})
	}
	if text := get(t, p.forward("svc/client", "8081")+"/breakers"); strings.Count(text, `"address"`) != 3 {
		t.Errorf("/breakers: got %s, want three endpoints", text)
	}
}

// Pods come and go under load, and no call is lost. New ones serve within six seconds.
func TestEndpointsComeAndGo(t *testing.T) {
	p := headless(t)
	server := "deployment/flaky-server"
	p.kubectl("scale", server, "--replicas=2")
	settled := func(n int) {
		p.kubectl("rollout", "status", server, "--timeout=3m")
		eventually(p.t, 2*time.Minute, "the old pods are gone", func() (bool, string) { return len(p.pods("flaky-server")) == n, "" })
	}
	settled(2)
	for _, change := range []struct {
		name string
		do   func()
		pods int
	}{
		{"2 to 4", func() { p.kubectl("scale", server, "--replicas=4") }, 4},
		{"4 to 2", func() { p.kubectl("scale", server, "--replicas=2") }, 2},
		{"rolling restart", func() { p.kubectl("rollout", "restart", server) }, 2},
		{"a pod killed", func() { p.kubectl("delete", "pod", p.pods("flaky-server")[0].Name, "--force", "--grace-period=0") }, 2},
	} {
		stop := p.load("http://client:8080/process", 200)
		time.Sleep(2 * time.Second)
		change.do()
		settled(change.pods)
		time.Sleep(6 * time.Second)
		idle := []string{}
		for _, pod := range p.pods("flaky-server") {
			if served(t, p.forward("pod/"+pod.Name, "5001")) == 0 {
				idle = append(idle, pod.Name)
			}
		}
		got := stop()
		t.Logf("%s: %+v", change.name, got)
		if got.Failed > 0 || got.Calls < 1000 || len(idle) > 0 {
			t.Errorf("%s: %d of %d calls failed, and %v served nothing, want none: %v", change.name, got.Failed, got.Calls, idle, got.How)
		}
	}
}
