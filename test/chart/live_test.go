package chart_test

import (
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"
)

// cluster is what a cluster already has, for the function lookup of the templates.
type cluster struct{ dynamic.Interface }

func (c cluster) GetClientFor(version, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	gv, err := schema.ParseGroupVersion(version)
	return c.Resource(gv.WithResource(strings.ToLower(kind) + "s")), true, err
}

// upgrade renders the chart for a cluster with objects.
func upgrade(t *testing.T, values map[string]any, objects ...runtime.Object) map[string]string {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	rendered, err := util.ToRenderValues(load(t), values, common.ReleaseOptions{Name: "rebound", Namespace: "somewhere", IsUpgrade: true, Revision: 2}, capabilities(t))
	if err != nil {
		t.Fatal(err)
	}
	out, err := engine.RenderWithClientProvider(load(t), rendered, cluster{fake.NewSimpleDynamicClient(scheme, objects...)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deployment returns the client's Deployment of six pods. If owned is true, a revision of the
// release has set their number. An API server records it nowhere if the subresource scale has.
func deployment(owned bool) *appsv1.Deployment {
	replicas := int32(6)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "client", Namespace: "somewhere"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}}
	fields := `{"f:spec":{"f:selector":{}}}`
	if owned {
		fields = `{"f:spec":{"f:replicas":{},"f:selector":{}}}`
	}
	d.ManagedFields = []metav1.ManagedFieldsEntry{
		{Manager: "helm", Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(fields)},
		{Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, Subresource: "status", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:replicas":{}}}`)},
	}
	return d
}

// byUpdate returns d as Helm 3 applies it.
func byUpdate(d *appsv1.Deployment) *appsv1.Deployment {
	d.ManagedFields[0].Operation = metav1.ManagedFieldsOperationUpdate
	d.ManagedFields[0].FieldsV1 = metav1.NewFieldsV1(`{"f:spec":{"f:selector":{},"f:strategy":{}}}`)
	return d
}

// Whoever sets the number of pods, switching the owner keeps it. A manifest without the number took
// six pods back to one.
func TestReplicasOfARunningRelease(t *testing.T) {
	const scaled, free = "client: {autoscaling: {enabled: true}}", "client: {replicas: null}"
	none := deployment(true)
	none.Spec.Replicas = new(int32)
	for name, tc := range map[string]struct {
		values string
		live   *appsv1.Deployment // nil for an installation
		want   string             // empty means no number
	}{
		"installed":                        {"{}", nil, "2"},
		"installed with an autoscaler":     {scaled, nil, ""},
		"installed, not owned":             {free, nil, ""},
		"the autoscaler is switched on":    {scaled, deployment(true), "6"},
		"the autoscaler was there first":   {scaled, deployment(false), ""},
		"no longer owned":                  {free, deployment(true), "6"},
		"never owned":                      {free, deployment(false), ""},
		"scaled by hand, owned by Helm":    {"{}", deployment(true), "2"},
		"KEDA is switched on":              {"client: {autoscaling: {enabled: true, keda: {enabled: true, serverAddress: 'http://a'}}}", deployment(true), "6"},
		"the number is changed by values":  {"client: {replicas: 3}", deployment(true), "3"},
		"the autoscaler is switched off":   {"client: {replicas: 4}", deployment(false), "4"},
		"no pods, and Helm keeps it at it": {"client: {replicas: 0}", deployment(true), "0"},
		"scaled by it, applied by Helm 3":  {scaled, byUpdate(deployment(false)), "6"},
		"not owned, applied by Helm 3":     {free, byUpdate(deployment(false)), "6"},
		"no pods, and an autoscaler":       {scaled, none, "1"},
		"no pods, not owned any more":      {free, none, "0"},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []runtime.Object
			if tc.live != nil {
				objects = append(objects, tc.live)
			}
			d := decode(t, "deployment", upgrade(t, parse(t, tc.values), objects...)["rebound/templates/client/deployment.yaml"]).(*appsv1.Deployment)
			got := ""
			if d.Spec.Replicas != nil {
				got = fmt.Sprint(*d.Spec.Replicas)
			}
			if got != tc.want {
				t.Errorf("the manifest has %q replicas, want %q", got, tc.want)
			}
		})
	}
}

// An upgrade keeps the ConfigMaps of running pods, and drops those that no pod uses. Those that are
// not Helm's are left alone: it would refuse to take them over.
func TestConfigMapsOfRunningPods(t *testing.T) {
	set := func(name, config string, replicas int32, labels map[string]string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "somewhere", Labels: labels},
			Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{
				{Name: "tmp"},
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: config}}}},
			}}}},
		}
	}
	stored := func(name, text string) *corev1.ConfigMap {
		yes := true
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "somewhere"}, Immutable: &yes, Data: map[string]string{"rebound.yaml": text}}
		m.Annotations = map[string]string{"meta.helm.sh/release-name": "rebound", "meta.helm.sh/release-namespace": "somewhere"}
		return m
	}
	byHand := stored("by-hand", "f")
	byHand.Annotations = nil
	ours := map[string]string{"app.kubernetes.io/name": "rebound", "app.kubernetes.io/instance": "rebound", "app.kubernetes.io/component": "client"}
	others := map[string]string{"app.kubernetes.io/name": "rebound", "app.kubernetes.io/instance": "second", "app.kubernetes.io/component": "client"}
	own := clientOf[*corev1.ConfigMap](t, mustRender(t, "rebound", nil)).Name
	out := upgrade(t, nil,
		set("a", "client-runs", 2, ours), set("b", "client-ran", 0, ours), set("c", own, 1, ours), set("d", "client-lost", 1, ours), set("e", "second-client", 1, others), set("f", "by-hand", 1, ours), byHand,
		stored("client-runs", "routes: []\n# a\n"), stored("client-ran", "b"), stored(own, "c"), stored("second-client", "e"))
	kept := out["rebound/templates/client/configmap-before.yaml"]
	m, ok := decode(t, "kept", strings.TrimPrefix(strings.TrimLeft(kept, "\n"), "---")).(*corev1.ConfigMap)
	if !ok || m.Name != "client-runs" || m.Data["rebound.yaml"] != "routes: []\n# a\n" || m.Immutable == nil || !*m.Immutable || strings.Count(kept, "kind:") != 1 {
		t.Errorf("got\n%s\nwant client-runs alone, as it is", kept)
	}
}

// The certificate of cert-manager does not exist at the first installation: the check leaves it out
// then, and later reads it.
func TestCheckOfAnIssuedCertificate(t *testing.T) {
	values := parse(t, "client: {tls: {certificate: {enabled: true, issuerRef: {name: a}}}}")
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "client-tls", Namespace: "somewhere"}}
	for name, tc := range map[string]struct {
		objects []runtime.Object
		want    bool
	}{"not yet issued": {nil, false}, "issued": {[]runtime.Object{secret}, true}} {
		t.Run(name, func(t *testing.T) {
			out := upgrade(t, values, tc.objects...)
			if got := strings.Contains(out["rebound/templates/client/check.yaml"], "certFile: /etc/rebound-secrets/client-tls/tls.crt"); got != tc.want {
				t.Errorf("the check reads the certificate: %v, want %v", got, tc.want)
			}
			if !strings.Contains(out["rebound/templates/client/configmap.yaml"], "certFile: /etc/rebound-secrets/client-tls/tls.crt") {
				t.Error("the configuration lacks the certificate, want it")
			}
		})
	}
}
