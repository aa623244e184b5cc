// Package chart_test renders the chart with Helm's own packages. It checks the objects against the
// types of the Kubernetes API and the policies of Pod Security, and their configuration with the
// real client. The packages below it check the files around the chart. They share a module of their
// own, because the parsers of Helm, Kubernetes, Docker and Prometheus are large dependencies.
//
// The tests compare k8s/ and the chart's tables and schema with what the chart generates. To write
// those files again:
//
//	go -C test/chart test -run=Generated -update
package chart_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	releasev1 "helm.sh/helm/v4/pkg/release/v1"
	releaseutil "helm.sh/helm/v4/pkg/release/v1/util"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

const (
	root     = "../.."
	chartDir = root + "/helm/rebound"
)

// object is an object of the chart, strictly decoded into its type.
type object interface {
	metav1.Object
	runtime.Object
}

// release is what `helm install` sends to the cluster.
type release struct {
	manifests []releaseutil.Manifest // in the order of their installation
	objects   []object
	tests     []object // the hooks of `helm test`
	checks    []object // the hooks before an installation or upgrade
	hooks     []*releasev1.Hook
	notes     string
}

// everything returns all objects.
func (r release) everything() []object { return slices.Concat(r.objects, r.tests, r.checks) }

// render does what `helm install NAME` does before it contacts a cluster. Like `helm lint
// --strict`, it refuses to read a missing value.
func render(t *testing.T, name string, values map[string]any) (release, error) {
	t.Helper()
	return renderBy(t, engine.Engine{Strict: true}, name, values)
}

func renderBy(t *testing.T, by engine.Engine, name string, values map[string]any) (release, error) {
	t.Helper()
	rendered, err := util.ToRenderValues(load(t), values, common.ReleaseOptions{Name: name, Namespace: "somewhere", IsInstall: true, Revision: 1}, capabilities(t))
	if err != nil {
		return release{}, err
	}
	files, err := by.RenderWithContext(t.Context(), load(t), rendered)
	if err != nil {
		return release{}, err
	}
	var r release
	for path, text := range files {
		switch filepath.Base(path) {
		case "NOTES.txt":
			r.notes = text
			delete(files, path)
		case "_helpers.tpl":
			delete(files, path)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return release{}, err
	}
	r.manifests, r.hooks = manifests, hooks
	for _, m := range manifests {
		r.objects = append(r.objects, decode(t, m.Name, m.Content))
	}
	for _, h := range hooks {
		o := decode(t, h.Path, h.Manifest)
		if slices.Contains(h.Events, releasev1.HookTest) {
			r.tests = append(r.tests, o)
		} else {
			r.checks = append(r.checks, o)
		}
	}
	return r, nil
}

func mustRender(t *testing.T, name string, values map[string]any) release {
	t.Helper()
	r, err := render(t, name, values)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// capabilities returns those of the oldest Kubernetes that the chart supports.
func capabilities(t *testing.T) *common.Capabilities {
	t.Helper()
	oldest, err := common.ParseKubeVersion(strings.TrimSuffix(strings.TrimPrefix(load(t).Metadata.KubeVersion, ">="), "-0"))
	if err != nil {
		t.Fatal(err)
	}
	c := common.DefaultCapabilities.Copy()
	c.KubeVersion = *oldest
	return c
}

// lintStrict does the same as `helm lint --strict`.
func lintStrict(t *testing.T, values map[string]any) {
	t.Helper()
	for _, m := range lint.RunAll(chartDir, values, "somewhere", lint.WithKubeVersion(&capabilities(t).KubeVersion)).Messages {
		if m.Severity >= support.WarningSev {
			t.Error(m)
		}
	}
}

// decode fails the test for a key that its type does not have.
func decode(t *testing.T, source, text string) object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, policyv1.AddToScheme, autoscalingv2.AddToScheme, networkingv1.AddToScheme,
		gatewayv1.Install, monitoringv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	// The types of these are not worth their dependencies.
	if strings.Contains(text, "apiVersion: keda.sh/") || strings.Contains(text, "apiVersion: cert-manager.io/") {
		var o unstructured.Unstructured
		if err := yaml.UnmarshalStrict([]byte(text), &o.Object); err != nil {
			t.Fatalf("%s: %v\n%s", source, err, text)
		}
		return &o
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	o, _, err := decoder.Decode([]byte(text), nil, nil)
	if err != nil {
		t.Fatalf("%s: %v\n%s", source, err, text)
	}
	return o.(object)
}

// parse reads values from YAML as Helm does.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	values, err := common.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// find returns the object of a type by its name, or nil.
func find[T object](r release, name string) (found T) {
	for _, o := range r.everything() {
		if o, ok := o.(T); ok && o.GetName() == name {
			return o
		}
	}
	return found
}

// all returns the objects of a type.
func all[T object](r release) (found []T) {
	for _, o := range r.everything() {
		if o, ok := o.(T); ok {
			found = append(found, o)
		}
	}
	return found
}

// scenarios returns sets of values by name: the files in ci/, the chart's other files of values,
// and the examples in its README.
func scenarios(t *testing.T) map[string]map[string]any {
	t.Helper()
	paths, err := filepath.Glob(chartDir + "/ci/*-values.yaml")
	if err != nil || len(paths) < 5 {
		t.Fatalf("found %q (%v), expected the scenarios", paths, err)
	}
	found := map[string]map[string]any{}
	for _, path := range append(paths, chartDir+"/values-dev.yaml") {
		found[strings.TrimSuffix(filepath.Base(path), ".yaml")] = readValues(t, path)
	}
	_, example, _ := strings.Cut(read(t, "helm/rebound/README.md"), "```yaml\n")
	example, _, ok := strings.Cut(example, "```\n")
	if !ok {
		t.Fatal("the chart's README has no YAML block, want values")
	}
	found["README"] = parse(t, example)
	return found
}

func readValues(t *testing.T, path string) map[string]any {
	t.Helper()
	values, err := common.ReadValuesFile(path)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return values
}
