package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The running program applies a changed file. That includes the way Kubernetes changes a ConfigMap:
// it swaps a symbolic link. An invalid file changes nothing, and /config shows its mistakes.
func TestChangedFileTakesEffect(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }))
	t.Cleanup(up.Close)
	dir := t.TempDir()
	version := func(name, text string) {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "rebound.yaml"), []byte(strings.ReplaceAll(text, "UP", up.URL)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(name, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "rebound.yaml")
	if err := os.Symlink(filepath.Join("..data", "rebound.yaml"), file); err != nil {
		t.Fatal(err)
	}
	version("..v1", "routes:\n  - {name: one, match: /one, upstream: UP}\n")
	routes, admin, _ := client(t, "--config", file)
	eventually := func(path, want string) {
		t.Helper()
		for limit := time.Now().Add(time.Minute); ; {
			code, body := get(t, admin+path)
			if code == http.StatusOK && strings.Contains(body, want) {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("%s: got %q, want it to contain %q", path, body[:min(len(body), 500)], want)
			}
		}
	}
	answers := func(path string, want int) {
		t.Helper()
		if code, body := get(t, routes+path); code != want {
			t.Errorf("%s: got %d %s, want %d", path, code, body, want)
		}
	}
	answers("/one", http.StatusOK)
	answers("/two", http.StatusNotFound)

	version("..v2", "routes:\n  - {name: two, match: /two, upstream: UP}\n")
	eventually("/config", "name: two")
	answers("/one", http.StatusNotFound)
	answers("/two", http.StatusOK)

	version("..v3", "routes:\n  - {name: three, match: /three, upstream: UP}\npolicies: {default: {timeout: 5}}\n")
	eventually("/config", file+":3:")
	eventually("/config", "name: two")
	eventually("/metrics", "\nrebound_config_refused 1\n")
	answers("/two", http.StatusOK)

	version("..v4", "routes:\n  - {name: four, match: /four, upstream: UP}\n")
	eventually("/config", "name: four")
	eventually("/metrics", "\nrebound_config_refused 0\n")
	if _, body := get(t, admin+"/config"); strings.Contains(body, "#") {
		t.Errorf("/config: got\n%s\nwant no comment about the rejected file", body)
	}
}

// A file of HTTPRoutes is a configuration. What is not carried over goes to the standard error of
// --check, and to the log.
func TestHTTPRoutesAreAConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "route.yaml")
	text := `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: web}
spec:
  rules:
    - name: orders
      matches: [{path: {type: Exact, value: /orders}}, {headers: [{name: A, value: b}]}]
      timeouts: {request: 9s, backendRequest: 2s}
      retry: {attempts: 2, codes: [503]}
      backendRefs: [{name: orders, port: 8080}]
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	if code := execute(t.Context(), []string{"--config", file, "--check"}, noEnv, &stdout, &stderr); code != 0 {
		t.Fatalf("got code %d, want 0:\n%s", code, stderr.String())
	}
	for _, want := range []string{"name: shop-orders\n", "match: /orders\n", "upstream: http://orders.web:8080\n", "timeout: 9s\n", "maxAttempts: 3\n"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("got\n%s\nwant %q in it", stdout.String(), want)
		}
	}
	if want := "client: " + file + ":7:66: spec.rules[0].matches[1].headers: the match is not carried over"; !strings.Contains(stderr.String(), want) {
		t.Errorf("got %q, want %q in it", stderr.String(), want)
	}
	_, admin, _ := client(t, "--config", file)
	if _, body := get(t, admin+"/config"); !strings.Contains(body, "upstream: http://orders.web:8080\n") {
		t.Errorf("/config: got\n%s\nwant the route", body)
	}
}
