//go:build e2e

// Package e2e_test installs Rebound on a real cluster and uses it as a user would, with helm,
// kubectl and HTTP. README.md lists what it needs.
package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	root  = "../.."
	chart = root + "/helm/rebound"
)

// cluster is the cluster that the tests run on.
type cluster struct {
	context string // of kubectl
	kind    string // its name in kind, empty for another kind of cluster
	made    bool   // by us
	*kubernetes.Clientset
}

var on *cluster //nolint:gochecknoglobals // made once

func TestMain(m *testing.M) {
	flag.Parse()
	ctx := context.Background()
	c, err := prepare(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		if c != nil {
			c.remove(ctx)
		}
		os.Exit(1)
	}
	on = c
	code := m.Run()
	c.remove(ctx)
	os.Exit(code)
}

// prepare finds or makes the cluster and puts the images into it.
func prepare(ctx context.Context) (*cluster, error) {
	c := &cluster{context: os.Getenv("E2E_CONTEXT")}
	if c.context == "" {
		c.kind = "rebound-e2e"
		c.context = "kind-" + c.kind
		if err := c.make(ctx); err != nil {
			return c, err
		}
	} else if name, ok := strings.CutPrefix(c.context, "kind-"); ok {
		c.kind = name
	}
	if err := c.images(ctx); err != nil {
		return c, err
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		clientcmd.NewDefaultClientConfigLoadingRules(), &clientcmd.ConfigOverrides{CurrentContext: c.context}).ClientConfig()
	if err != nil {
		return c, err
	}
	if c.Clientset, err = kubernetes.NewForConfig(config); err != nil {
		return c, err
	}
	if setup := os.Getenv("E2E_SETUP"); setup != "" {
		if err := run(ctx, nil, "sh", "-c", setup+" "+c.kind); err != nil {
			return c, fmt.Errorf("E2E_SETUP: %w", err)
		}
	}
	return c, nil
}

// make creates the kind cluster of kind-config.yaml in this folder. Unlike the users' one it has
// two nodes, and opens no ports, which another cluster on this machine may have taken.
func (c *cluster) make(ctx context.Context) error {
	there, err := output(ctx, "kind", "get", "clusters")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(there), c.kind) {
		return fmt.Errorf("there is a kind cluster %[1]s already: delete it (kind delete cluster --name %[1]s) or use it (E2E_CONTEXT=kind-%[1]s)", c.kind)
	}
	args := []string{"create", "cluster", "--name", c.kind, "--config", "kind-config.yaml", "--wait", "3m"}
	if image := os.Getenv("KIND_NODE_IMAGE"); image != "" {
		args = append(args, "--image", image)
	}
	c.made = true // also when it is half made
	return run(ctx, nil, "kind", args...)
}

// images builds the project's images and loads them, and the image that stands in for Jaeger's. A
// cluster that is not kind's must have them already.
func (c *cluster) images(ctx context.Context) error {
	if c.kind == "" {
		return nil
	}
	version, err := appVersion()
	if err != nil {
		return err
	}
	dist := filepath.Join(root, "dist", "linux_"+runtime.GOARCH)
	build := []string{"build", "-trimpath", "-buildvcs=false", "-tags=grpcnotrace", "-ldflags=-s -w -buildid=", "-o"}
	static := []string{"CGO_ENABLED=0", "GOOS=linux"}
	if err := runIn(ctx, root, static, "go", append(build, "dist/linux_"+runtime.GOARCH+"/", "./cmd/client", "./cmd/flaky-server")...); err != nil {
		return err
	}
	var images []string
	for _, target := range []string{"client", "flaky-server"} {
		image := "rebound/" + target + ":" + version
		if err := docker(ctx, nil, "build", "-q", "-f", root+"/deploy/Dockerfile", "--target", target,
			"--build-arg", "SOURCE=prebuilt", "-t", image, root); err != nil {
			return err
		}
		images = append(images, image)
	}
	// The callers of the tests, in an image from scratch.
	if err := run(ctx, static, "go", append(build, dist+"/load", "./load")...); err != nil {
		return err
	}
	if err := docker(ctx, strings.NewReader("FROM scratch\nCOPY load /load\nENTRYPOINT [\"/load\"]\n"),
		"build", "-q", "-f", "-", "-t", loadImage, dist); err != nil {
		return err
	}
	images = append(images, loadImage)
	if standIn := os.Getenv("JAEGER_IMAGE"); standIn != "" {
		jaeger, err := jaegerImage(ctx)
		if err != nil {
			return err
		}
		if err := docker(ctx, nil, "tag", standIn, jaeger); err != nil {
			return err
		}
		images = append(images, jaeger)
	}
	return run(ctx, nil, "kind", append([]string{"load", "docker-image", "--name", c.kind}, images...)...)
}

const loadImage = "rebound-e2e/load:1"

// appVersion returns the chart's appVersion, which is the tag of the images.
func appVersion() (string, error) {
	text, err := os.ReadFile(chart + "/Chart.yaml")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "appVersion:"); ok {
			return strings.Trim(strings.TrimSpace(v), `"`), nil
		}
	}
	return "", errors.New("Chart.yaml has no appVersion")
}

// jaegerImage returns the image that the chart installs.
func jaegerImage(ctx context.Context) (string, error) {
	out, err := output(ctx, "helm", "template", "rebound", chart, "--set", "jaeger.enabled=true", "--show-only", "templates/jaeger/deployment.yaml")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if image, ok := strings.CutPrefix(strings.TrimSpace(line), "image: "); ok {
			return strings.Trim(image, `"`), nil
		}
	}
	return "", errors.New("the chart's Jaeger has no image")
}

func (c *cluster) remove(ctx context.Context) {
	if !c.made || os.Getenv("E2E_KEEP") != "" {
		return
	}
	if err := run(ctx, nil, "kind", "delete", "cluster", "--name", c.kind); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
}

// run runs a command with extra environment variables. If it fails, the test ends with its output.
func run(ctx context.Context, env []string, name string, args ...string) error {
	return runIn(ctx, "", env, name, args...)
}

func runIn(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// docker runs Docker's client: the program that DOCKER names, or docker from the path.
func docker(ctx context.Context, stdin io.Reader, args ...string) error {
	name := os.Getenv("DOCKER")
	if name == "" {
		name = "docker"
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), nil
}

// place is the namespace of a test. Its pods must pass Pod Security's strictest level. It is
// deleted with the test.
type place struct {
	t         *testing.T
	namespace string
	callers   map[string]string // labels of the node that load runs on, if it matters
}

func newPlace(t *testing.T) place {
	t.Helper()
	n, err := on.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "rebound-e2e-",
		Labels:       map[string]string{"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "latest"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p := place{t: t, namespace: n.Name}
	t.Cleanup(func() {
		if t.Failed() {
			p.dump()
		}
		if err := on.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), n.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return p
}

// dump logs what a user would check first after a failure.
func (p place) dump() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "--tail=5", "--prefix", "--all-containers", "--ignore-errors", "-l", "app.kubernetes.io/part-of=rebound"},
	} {
		out, err := output(ctx, "kubectl", p.kubectlArgs(args)...)
		p.t.Logf("kubectl %s\n%s%v", strings.Join(args, " "), out, err)
	}
}

func (p place) kubectlArgs(args []string) []string {
	return append([]string{"--context", on.context, "--namespace", p.namespace}, args...)
}

func (p place) kubectl(args ...string) string {
	p.t.Helper()
	out, err := output(p.t.Context(), "kubectl", p.kubectlArgs(args)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

func (p place) helm(args ...string) string {
	p.t.Helper()
	out, err := output(p.t.Context(), "helm", append([]string{"--kube-context", on.context, "--namespace", p.namespace}, args...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// install installs the chart as the release rebound and waits until all is ready.
func (p place) install(args ...string) {
	p.t.Helper()
	p.helm(append([]string{"install", "rebound", chart, "--wait", "--timeout", "3m"}, args...)...)
}

func (p place) pods(component string) []corev1.Pod {
	p.t.Helper()
	list, err := on.CoreV1().Pods(p.namespace).List(p.t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/component=" + component})
	if err != nil {
		p.t.Fatal(err)
	}
	return list.Items
}

// forward runs kubectl port-forward to a free port of this machine until the test ends, and returns
// the URL.
func (p place) forward(target, port string) string {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.t.Context()))
	cmd := exec.CommandContext(ctx, "kubectl", p.kubectlArgs([]string{"port-forward", target, ":" + port})...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	if err := cmd.Start(); err != nil {
		cancel()
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	p.t.Cleanup(func() { cancel(); <-ended })
	lines := make(chan string, 16)
	go func() { // its output has to be read for as long as it runs
		defer close(lines)
		buffer := make([]byte, 4096)
		for {
			n, err := reader.Read(buffer)
			if n > 0 {
				select {
				case lines <- string(buffer[:n]):
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		defer close(ended)
		_ = cmd.Wait()
		_ = writer.Close()
	}()
	for line := range lines {
		if _, rest, ok := strings.Cut(line, "Forwarding from 127.0.0.1:"); ok {
			local, _, _ := strings.Cut(rest, " ")
			return "http://" + net.JoinHostPort("127.0.0.1", local)
		}
		if strings.Contains(line, "rror") {
			p.t.Fatalf("port-forward %s %s: %s", target, port, line)
		}
	}
	p.t.Fatalf("port-forward %s %s ended, want it to go on", target, port)
	return ""
}

// reached waits until a call of /process has succeeded. A node learns of new pods' addresses a
// moment after they are ready, and until then the client cannot reach its upstream.
func (p place) reached(url string) {
	p.t.Helper()
	eventually(p.t, 20*time.Second, "a call succeeds", func() (bool, string) {
		resp, text, err := try(p.t.Context(), http.MethodGet, url+"/process", "", nil)
		return err == nil && resp.StatusCode == http.StatusOK, fmt.Sprint(text, err)
	})
}

var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}} //nolint:gochecknoglobals // as http.DefaultClient

func request(t *testing.T, method, url, body string, header map[string]string) (*http.Response, string) {
	t.Helper()
	resp, text, err := try(t.Context(), method, url, body, header)
	if err != nil {
		t.Fatal(err)
	}
	return resp, text
}

func try(ctx context.Context, method, url, body string, header map[string]string) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, text := request(t, http.MethodGet, url, "", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: got status %s, want 200\n%s", url, resp.Status, text)
	}
	return text
}

// twice calls try, and again if it missed something: the cluster's network may lose a call, and so
// may a machine that stands still for a moment. What is missed in both tries is our fault.
func twice(t *testing.T, try func() (missed string)) {
	t.Helper()
	missed := try()
	if missed == "" {
		return
	}
	t.Logf("missed: %s", missed)
	if missed = try(); missed != "" {
		t.Errorf("missed twice: %s", missed)
	}
}

// eventually calls ask until it returns true. On timeout the failure has what it said last.
func eventually(t *testing.T, limit time.Duration, what string, ask func() (yes bool, said string)) {
	t.Helper()
	var said string
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var yes bool
		if yes, said = ask(); yes {
			return
		}
	}
	t.Fatalf("waited %v in vain: %s: %s", limit, what, said)
}
