// Package deploy_test checks what runs Rebound without being part of the chart: Dockerfile, Compose
// file, kind configuration and Tiltfile, each with the parser of the tool that reads it, and all of
// them against each other and against the chart.
package deploy_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"

	"github.com/rebound-dev/rebound/internal/testkit/files"
)

// root is the root of the repository. Paths in these files are relative to it, except in the
// Compose file.
const root = "../../.."

// ports returns each program's data port and admin port.
func ports() map[string][]int {
	return map[string][]int{"client": {8080, 8081}, "flaky-server": {5000, 5001}}
}

// images returns the programs that have an image, by the name of the image.
func images() map[string]string {
	return map[string]string{"rebound/client": "client", "rebound/flaky-server": "flaky-server"}
}

// read returns the text of a file of the repository.
func read(t *testing.T, path string) string {
	t.Helper()
	return files.Read(t, filepath.Join(root, path))
}

// exists fails the test if the repository has no such path.
func exists(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, path)); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is missing, want it in the repository", path)
	}
}

// object is the part of a Kubernetes object that these tests look at.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Ports []struct {
			Port     int
			NodePort int `yaml:"nodePort"`
		}
		Template struct {
			Spec struct {
				Containers []struct {
					Image string
					Ports []struct {
						ContainerPort int `yaml:"containerPort"`
					}
				}
			}
		}
	}
}

// containerPorts returns the ports of a Deployment's only container.
func (o object) containerPorts() []int {
	var numbers []int
	for _, p := range o.Spec.Template.Spec.Containers[0].Ports {
		numbers = append(numbers, p.ContainerPort)
	}
	return numbers
}

// servicePorts returns the ports of a Service.
func (o object) servicePorts() []int {
	var numbers []int
	for _, p := range o.Spec.Ports {
		numbers = append(numbers, p.Port)
	}
	return numbers
}

type objects []object

func (all objects) ofKind(kind string) map[string]object {
	found := map[string]object{}
	for _, o := range all {
		if o.Kind == kind {
			found[o.Metadata.Name] = o
		}
	}
	return found
}

// render returns what `helm template NAME CHART --values FILE...` prints.
func render(t *testing.T, path, name string, valuesFiles ...string) objects {
	t.Helper()
	values := map[string]any{}
	for _, file := range valuesFiles {
		more, err := common.ReadValuesFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		values = loader.MergeMaps(values, more)
	}
	return renderValues(t, path, name, values)
}

func renderValues(t *testing.T, path, name string, values map[string]any) objects {
	t.Helper()
	c, err := loader.Load(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	in, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: name, Namespace: "default", Revision: 1, IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, in)
	if err != nil {
		t.Fatal(err)
	}
	var all objects
	for file, text := range files {
		if !strings.HasSuffix(file, ".yaml") {
			continue
		}
		for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
			var o object
			if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if o.Kind != "" {
				all = append(all, o)
			}
		}
	}
	return all
}

// readChart returns the chart's metadata. Its appVersion is the default tag of the images.
func readChart(t *testing.T) *chart.Metadata {
	t.Helper()
	c, err := loader.Load(filepath.Join(root, "helm/rebound"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Metadata
}
