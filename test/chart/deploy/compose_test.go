package deploy_test

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// readCompose loads deploy/compose.yaml as Docker Compose does, with an empty environment.
func readCompose(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "deploy/compose.yaml")}, cli.WithEnv(nil))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeServices(t *testing.T) {
	project := readCompose(t)
	docker := readDockerfile(t)
	if want := []string{"client", "flaky-server", "jaeger"}; !slices.Equal(slices.Sorted(slices.Values(project.ServiceNames())), want) {
		t.Fatalf("the services are %q, want %q", project.ServiceNames(), want)
	}
	published := map[string][]int{"client": {8080, 8081}, "flaky-server": {5001}, "jaeger": {16686}}
	for name, service := range project.Services {
		t.Run(name, func(t *testing.T) {
			if !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 || service.Privileged ||
				!slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
				t.Error("the service may do more than it needs to, want it read-only, without capabilities and new privileges")
			}
			var got []int
			for _, port := range service.Ports {
				if port.HostIP != "127.0.0.1" || port.Published != strconv.Itoa(int(port.Target)) {
					t.Errorf("%s:%s:%d, want the same port on loopback only", port.HostIP, port.Published, port.Target)
				}
				got = append(got, int(port.Target))
			}
			if !slices.Equal(got, published[name]) {
				t.Errorf("it publishes %v, want %v", got, published[name])
			}
			for other, dependency := range service.DependsOn {
				if dependency.Condition == types.ServiceConditionHealthy && project.Services[other].HealthCheck == nil {
					t.Errorf("it waits until %s is healthy, want a health check there", other)
				}
			}
			if service.Build == nil {
				return
			}

			if images()[strings.TrimSuffix(service.Image, ":"+readChart(t).AppVersion)] != name {
				t.Errorf("the image is %q, want that of the chart", service.Image)
			}
			file := filepath.Join(service.Build.Context, service.Build.Dockerfile)
			if want, _ := filepath.Abs(filepath.Join(root, "deploy/Dockerfile")); file != want {
				t.Errorf("it is built with %s, want %s", file, want)
			}
			if _, ok := docker.stages[service.Build.Target]; !ok || service.Build.Target != name {
				t.Errorf("it is built with the target %q, want %q", service.Build.Target, name)
			}
			for name := range service.Build.Args {
				if !docker.declares(name) {
					t.Errorf("the Dockerfile has no argument %s, want one", name)
				}
			}

			// The image contains only the program.
			admin := "http://127.0.0.1:" + strconv.Itoa(ports()[name][1])
			if want := []string{"CMD", "/" + name, "probe", admin + "/readyz"}; service.HealthCheck == nil || !slices.Equal(service.HealthCheck.Test, want) {
				t.Errorf("the health check is %+v, want %q", service.HealthCheck, want)
			}
			// Jaeger takes OTLP over HTTP, the default protocol, on port 4318.
			if to, ok := service.Environment.ToMapping()["OTEL_EXPORTER_OTLP_ENDPOINT"]; !ok || to != "http://jaeger:4318" {
				t.Errorf("traces go to %q, want http://jaeger:4318", to)
			}
			for variable := range service.Environment {
				if !strings.HasPrefix(variable, "OTEL_") {
					t.Errorf("the environment has %s, want settings in the command or the file", variable)
				}
			}
		})
	}
}

// The policy in Compose is the demo's, which the README explains. Only the upstream's host differs.
func TestComposeConfiguration(t *testing.T) {
	project := readCompose(t)
	client := project.Services["client"]
	if len(client.Command) != 2 || client.Command[0] != "--config" || len(client.Volumes) != 1 {
		t.Fatalf("client runs %q with volumes %v, want --config FILE and one volume", client.Command, client.Volumes)
	}
	volume := client.Volumes[0]
	if !volume.ReadOnly || volume.Target != path.Dir(client.Command[1]) {
		t.Errorf("%s is mounted to %s, read-only: %t, want %s, read-only", volume.Source, volume.Target, volume.ReadOnly, path.Dir(client.Command[1]))
	}
	got := load(t, filepath.Join(volume.Source, path.Base(client.Command[1])))
	want := load(t, filepath.Join(root, "cmd/demo/rebound.yaml"))
	for i, route := range got.Routes {
		scheme, host, _ := strings.Cut(route.Upstream, "://")
		if host != "flaky-server:5000" {
			t.Errorf("%s goes to %s, want flaky-server:5000", route.Name, route.Upstream)
		}
		got.Routes[i].Upstream = scheme + "://127.0.0.1:5000"
	}
	if got, want := marshal(t, got), marshal(t, want); got != want {
		t.Errorf("Compose has\n%s\nthe demo has\n%s", got, want)
	}

	seed := regexp.MustCompile(`shippedSeed = (\d+)`).FindStringSubmatch(read(t, "cmd/demo/main.go"))[1]
	if want := []string{"--seed", seed}; !slices.Equal(project.Services["flaky-server"].Command, want) {
		t.Errorf("flaky-server runs %q, want %q as in the demo", project.Services["flaky-server"].Command, want)
	}
}

func load(t *testing.T, file string) gateway.Config {
	t.Helper()
	cfg := gateway.DefaultConfig()
	if err := config.Load(file, &cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func marshal(t *testing.T, cfg gateway.Config) string {
	t.Helper()
	text, err := config.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Compose and the chart use the same Jaeger, so that they behave the same.
func TestComposeHasTheJaegerOfTheChart(t *testing.T) {
	jaeger := readTiltfile(t).rendered(t).ofKind("Deployment")["jaeger"]
	if got, want := readCompose(t).Services["jaeger"].Image, jaeger.Spec.Template.Spec.Containers[0].Image; got != want {
		t.Errorf("Compose has %s, the chart %s", got, want)
	}
}
