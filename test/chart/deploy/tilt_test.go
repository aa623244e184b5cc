package deploy_test

import (
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/faults"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
)

// resources returns what Tilt shows, workloads and local commands, by name.
func (d declared) resources() map[string]call {
	found := map[string]call{}
	for _, c := range d["k8s_resource"] {
		found[c.text("workload")] = c
	}
	for _, c := range d["local_resource"] {
		found[c.text("name")] = c
	}
	return found
}

// manual reports whether a resource runs only on request.
func manual(c call) bool {
	return c["auto_init"] != nil && !bool(c["auto_init"].Truth()) && c["trigger_mode"] == mode("TRIGGER_MODE_MANUAL")
}

// rendered returns the objects that the chart installs under Tilt.
func (d declared) rendered(t *testing.T) objects {
	t.Helper()
	if len(d["helm"]) != 1 {
		t.Fatalf("the chart is rendered %d times, want once", len(d["helm"]))
	}
	c := d["helm"][0]
	return render(t, c.text("pathToChartDir"), c.text("name"), c.list("values")...)
}

func TestTiltInstallsTheChart(t *testing.T) {
	d := readTiltfile(t)
	if len(d["k8s_yaml"]) != 1 || d["k8s_yaml"][0]["yaml"].Type() != "blob" {
		t.Errorf("it applies %v, want only what helm gives", d["k8s_yaml"])
	}
	if version, wanted := d["helm"][0].text("kube_version"), readChart(t).KubeVersion; !chartutil.IsCompatibleRange(wanted, version) {
		t.Errorf("the chart is rendered for Kubernetes %q, it takes %s", version, wanted)
	}
	workloads := d.rendered(t).ofKind("Deployment")
	var configured []string
	for _, c := range d["k8s_resource"] {
		configured = append(configured, c.text("workload"))
	}
	slices.Sort(configured)
	if want := slices.Sorted(maps.Keys(workloads)); !slices.Equal(configured, want) {
		t.Errorf("it configures %q, the chart has %q", configured, want)
	}

	services := d.rendered(t).ofKind("Service")
	local := map[int]string{}
	for _, c := range d["k8s_resource"] {
		workload := c.text("workload")
		for _, forward := range c.structs("port_forwards") {
			if port := forward.number("container_port"); !slices.Contains(workloads[workload].containerPorts(), port) {
				t.Errorf("%s: %d is forwarded, want one of its ports %v", workload, port, workloads[workload].containerPorts())
			} else if !slices.Contains(services[workload].servicePorts(), port) {
				t.Errorf("%s: %d is forwarded, want one of its Service's ports %v, as for kubectl port-forward", workload, port, services[workload].servicePorts())
			}
			if port := forward.number("local_port"); local[port] != "" {
				t.Errorf("%s and %s both want the port %d", local[port], workload, port)
			} else {
				local[port] = workload
			}
		}
	}
	want := map[int]string{8080: "client", 8081: "client", 5001: "flaky-server", 16686: "jaeger"}
	if !maps.Equal(local, want) {
		t.Errorf("forwarded are %v, want %v", local, want)
	}
}

func TestTiltBuildsTheImages(t *testing.T) {
	d := readTiltfile(t)
	docker := readDockerfile(t)
	ignored := readIgnored(t)
	compile := d.resources()["build"]
	outputs, arch := compiled(t, compile)

	built := map[string]bool{}
	for _, c := range d["docker_build"] {
		image := c.text("ref")
		built[image] = true
		t.Run(image, func(t *testing.T) {
			program := images()[image]
			exists(t, c.text("dockerfile"))
			if c.text("context") != "." || c.text("dockerfile") != "deploy/Dockerfile" || c.text("target") != program {
				t.Errorf("it builds %v, want %s from deploy/Dockerfile in the root", c, program)
			}
			if want := "linux/" + arch; c.text("platform") != want {
				t.Errorf("the platform is %q, the programs are for %q", c.text("platform"), want)
			}
			for name := range c.dict("build_args") {
				if !docker.declares(name) {
					t.Errorf("the Dockerfile has no argument %s, want one", name)
				}
			}
			source := docker.stages[c.dict("build_args")["SOURCE"]]
			if source.Name != "prebuilt" {
				t.Fatalf("the binaries come from the stage %q, want prebuilt", source.Name)
			}
			// Everything that the stage needs is in the context, and only what this image is made
			// of.
			for _, file := range c.list("only") {
				if ignored(file) {
					t.Errorf("%s is ignored, want it in the context", file)
				}
				if !outputs[file] {
					exists(t, file)
				}
			}
			if want := []string{"LICENSE", "dist/linux_" + arch + "/" + program}; !slices.Equal(c.list("only"), want) {
				t.Errorf("it takes %q, want %q", c.list("only"), want)
			}
			if copies, folder := docker.copies(source.Name), "dist/linux_${TARGETARCH:-amd64}*"; !slices.Contains(copies, folder) {
				t.Errorf("the stage prebuilt takes %q, want %s", copies, folder)
			}
		})
	}
	// Each image that the chart installs is built, except those of other projects.
	for name, workload := range d.rendered(t).ofKind("Deployment") {
		for _, container := range workload.Spec.Template.Spec.Containers {
			repository := container.Image[:strings.LastIndex(container.Image, ":")]
			if strings.HasPrefix(repository, "rebound/") && !built[repository] {
				t.Errorf("%s: nothing builds %s, want a docker_build", name, repository)
			}
			delete(built, repository)
		}
	}
	if len(built) > 0 {
		t.Errorf("%v are built and not installed, want every image used", slices.Collect(maps.Keys(built)))
	}
	for name, c := range d.resources() {
		if c["workload"] != nil && slices.Contains(slices.Collect(maps.Values(images())), name) && !slices.Contains(c.list("resource_deps"), "build") {
			t.Errorf("%s does not wait for its binary, want build among its resource_deps", name)
		}
	}
}

// compiled returns the files that the resource "build" makes, and their architecture.
func compiled(t *testing.T, c call) (files map[string]bool, arch string) {
	t.Helper()
	env := c.dict("env")
	if env["CGO_ENABLED"] != "0" || env["GOOS"] != "linux" || env["GOARCH"] == "" {
		t.Errorf("it compiles for %v, want a static program for Linux", env)
	}
	for _, file := range c.list("deps") {
		exists(t, file)
	}
	args, folder := c.list("cmd"), ""
	for i, arg := range args {
		if arg == "-o" {
			folder = args[i+1]
		}
	}
	if !strings.HasSuffix(folder, "/") {
		t.Errorf("got -o %q, want a slash at the end", folder)
	}
	files = map[string]bool{}
	for _, arg := range args {
		if strings.HasPrefix(arg, "./cmd/") {
			exists(t, arg)
			files[folder+path.Base(arg)] = true
		}
	}
	// The flags are the Dockerfile's, except the version.
	for _, flag := range []string{"-tags=grpcnotrace", "-trimpath", "-buildvcs=false", "-s -w -buildid="} {
		if !slices.ContainsFunc(args, func(arg string) bool { return strings.Contains(arg, flag) }) {
			t.Errorf("it is built without %s, want it, so that each build gives the same bytes", flag)
		}
	}
	return files, env["GOARCH"]
}

func TestTiltResources(t *testing.T) {
	d := readTiltfile(t)
	resources := d.resources()
	label := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$`)
	for name, c := range resources {
		// A list runs without a shell, so it works on every developer's machine.
		if c["cmd"] != nil && c["cmd"].Type() != "list" {
			t.Errorf("%s: got command %v, want a list, which needs no shell", name, c["cmd"])
		}
		for _, l := range c.list("labels") {
			if !label.MatchString(l) {
				t.Errorf("%s: got label %q, want a valid one", name, l)
			}
		}
		for _, other := range c.list("resource_deps") {
			dependency, ok := resources[other]
			if !ok {
				t.Errorf("%s waits for %s, want a resource that exists", name, other)
			} else if manual(dependency) {
				t.Errorf("%s waits for %s, want one that runs by itself: tilt ci would never end", name, other)
			}
		}
		if byHand := name == "smoke" || name == "outage"; byHand != manual(c) {
			t.Errorf("%s runs by itself: %t, want %t", name, !manual(c), !byHand)
		}
	}

	var forwarded []int
	for _, c := range d["port_forward"] {
		forwarded = append(forwarded, c.number("local_port"))
	}
	addresses := map[string]string{}
	for _, c := range d["link"] {
		addresses["link "+c.text("name")] = c.text("url")
	}
	for _, name := range []string{"smoke", "outage"} {
		for _, arg := range resources[name].list("cmd") {
			if strings.HasPrefix(arg, "http") {
				addresses[name] = arg
			}
		}
	}
	if len(addresses) < 3 {
		t.Errorf("got the addresses %v, want at least 3", addresses)
	}
	for name, address := range addresses {
		u, err := url.Parse(address)
		if err != nil {
			t.Error(err)
			continue
		}
		if port, _ := strconv.Atoi(u.Port()); u.Hostname() != "localhost" || !slices.Contains(forwarded, port) {
			t.Errorf("%s: got address %s, want one of the forwarded ports %v", name, address, forwarded)
		}
	}
}

func TestTiltSmoke(t *testing.T) {
	command := readTiltfile(t).resources()["smoke"].list("cmd")
	if len(command) != 4 || !slices.Equal(command[:2], []string{"go", "run"}) {
		t.Fatalf("it runs %q, want go run with a package and an address", command)
	}
	exists(t, path.Join(command[2], "main.go"))
}

// The button's outage is a valid change of the faults and ends by itself.
func TestTiltOutage(t *testing.T) {
	command := readTiltfile(t).resources()["outage"].list("cmd")
	i, m := slices.Index(command, "-d"), slices.Index(command, "PATCH")
	if command[0] != "curl" || i < 0 || m < 0 || !slices.Contains(command, "http://localhost:5001/faults") {
		t.Fatalf("it runs %q, want curl on http://localhost:5001/faults", command)
	}
	spec := faults.Default()
	if err := config.Decode("outage", []byte(command[i+1]), &spec); err != nil {
		t.Fatal(err)
	}
	if len(spec.Schedule) != 1 || spec.Schedule[0].At != 0 || spec.Schedule[0].For != 20*time.Second {
		t.Fatalf("the schedule is %+v, want 20 s from now", spec.Schedule)
	}
	if rate := spec.Schedule[0].ErrorRate; rate == nil || *rate != 1 {
		t.Errorf("the error rate is %v, want 1", rate)
	}
}

func TestTiltRunsOnTheKindCluster(t *testing.T) {
	d := readTiltfile(t)
	if got, want := d["allow_k8s_contexts"][0].list("contexts"), []string{"kind-" + readKind(t).Name}; !slices.Equal(got, want) {
		t.Errorf("it is allowed on %q, want %q", got, want)
	}
}
