package chart_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	// Their modules have the definitions.
	_ "github.com/cert-manager/cert-manager/pkg/apis/certmanager"
	_ "github.com/kedacore/keda/v2/version"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/versionutil"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// definition checks objects as the API server does by a CustomResourceDefinition, except for its
// rules in CEL.
type definition struct {
	validator validation.SchemaValidator
	schema    *structuralschema.Structural
}

// mistakes returns what the API server would say of an object, or drop from it.
func (d definition) mistakes(object map[string]any) (found []string) {
	for _, err := range validation.ValidateCustomResource(nil, object, d.validator) {
		found = append(found, err.Error())
	}
	for _, path := range pruning.PruneWithOptions(runtime.DeepCopyJSON(object), d.schema, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		found = append(found, "unknown field "+path)
	}
	return found
}

// readDefinitions returns the definitions by version and kind, such as keda.sh/v1alpha1
// ScaledObject.
func readDefinitions(t *testing.T) map[string]definition {
	t.Helper()
	listed, err := os.ReadFile(filepath.Join("testdata", "definitions.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var definitions map[string][]string
	if err := yaml.UnmarshalStrict(listed, &definitions); err != nil {
		t.Fatal(err)
	}
	found := map[string]definition{}
	for module, files := range definitions {
		dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatalf("%s: %v", module, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), file))
			if err != nil {
				t.Fatal(err)
			}
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.Unmarshal(text, &crd); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			for _, version := range crd.Spec.Versions {
				var internal apiextensions.JSONSchemaProps
				if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(version.Schema.OpenAPIV3Schema, &internal, nil); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				var d definition
				if d.validator, _, err = validation.NewSchemaValidator(&internal); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				if d.schema, err = structuralschema.NewStructural(&internal); err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				found[crd.Spec.Group+"/"+version.Name+" "+crd.Spec.Names.Kind] = d
			}
		}
	}
	return found
}

// Objects of kinds that a bare cluster lacks fit the definitions that their projects publish.
func TestCustomResources(t *testing.T) {
	defined := readDefinitions(t)
	seen := map[string]bool{}
	for name, values := range scenarios(t) {
		for _, m := range mustRender(t, "rebound", values).manifests {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(m.Content), &object); err != nil {
				t.Fatal(err)
			}
			kind := m.Head.Version + " " + m.Head.Kind
			d, ok := defined[kind]
			if !ok {
				continue
			}
			seen[m.Head.Kind] = true
			for _, mistake := range d.mistakes(object) {
				t.Errorf("%s: %s: %s, of\n%s", name, m.Name, mistake, m.Content)
			}
		}
	}
	for _, kind := range []string{"ScaledObject", "Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"} {
		if !seen[kind] {
			t.Errorf("no scenario has a %s with a definition, want one", kind)
		}
	}
}

// The definitions refuse what does not fit them.
func TestCustomResourcesAreChecked(t *testing.T) {
	defined := readDefinitions(t)
	for name, tc := range map[string]struct{ object, want string }{
		"no target":        {"{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: a}, spec: {triggers: [{type: cpu, metadata: {value: '70'}}]}}", "spec.scaleTargetRef"},
		"an unknown field": {"{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: a}, spec: {scaleTargetRef: {name: a}, minReplicas: 1, triggers: []}}", "unknown field spec.minReplicas"},
		"no issuer":        {"{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {name: a}, spec: {secretName: a}}", "spec.issuerRef"},
		"a duration":       {"{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, spec: {selector: {}, podMetricsEndpoints: [{interval: fast}]}}", "spec.podMetricsEndpoints[0].interval"},
	} {
		t.Run(name, func(t *testing.T) {
			var object map[string]any
			if err := yaml.Unmarshal([]byte(tc.object), &object); err != nil {
				t.Fatal(err)
			}
			d, ok := defined[object["apiVersion"].(string)+" "+object["kind"].(string)]
			if !ok {
				t.Fatal("there is no definition, want one")
			}
			if got := strings.Join(d.mistakes(object), "\n"); !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
