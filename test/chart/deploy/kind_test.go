package deploy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// readKind decodes kind-config.yaml as strictly as kind does.
func readKind(t *testing.T) v1alpha4.Cluster {
	t.Helper()
	var cluster v1alpha4.Cluster
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "kind-config.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&cluster); err != nil {
		t.Fatal(err)
	}
	return cluster
}

func TestKindCluster(t *testing.T) {
	cluster := readKind(t)
	if cluster.Kind != "Cluster" || cluster.APIVersion != "kind.x-k8s.io/v1alpha4" || cluster.Name != "rebound" {
		t.Errorf("got a %s of %s called %q, want a Cluster of kind.x-k8s.io/v1alpha4 called rebound", cluster.Kind, cluster.APIVersion, cluster.Name)
	}
	if len(cluster.Nodes) != 1 || cluster.Nodes[0].Role != v1alpha4.ControlPlaneRole {
		t.Fatalf("the nodes are %+v, want one", cluster.Nodes)
	}
	if image := cluster.Nodes[0].Image; image != "" {
		t.Errorf("the image %s is pinned, want none: the caller chooses it", image)
	}
	documented := documentedNodePorts(t)
	for _, mapping := range cluster.Nodes[0].ExtraPortMappings {
		if mapping.ListenAddress != "127.0.0.1" {
			t.Errorf("%d is open on %q, want loopback only", mapping.HostPort, mapping.ListenAddress)
		}
		if port := int(mapping.ContainerPort); documented[port] == "" {
			t.Errorf("%d is mapped, want values in docs/kubernetes.md that make it a NodePort", port)
		} else if documented[port] != fmt.Sprintf("localhost:%d", mapping.HostPort) {
			t.Errorf("%d is mapped to %d, want %s as in docs/kubernetes.md", port, mapping.HostPort, documented[port])
		}
		delete(documented, int(mapping.ContainerPort))
	}
	for port := range documented {
		t.Errorf("docs/kubernetes.md has the NodePort %d, want it mapped", port)
	}
}

// documentedNodePorts returns the NodePorts that the values in docs/kubernetes.md create, with the
// address that the page uses for each.
func documentedNodePorts(t *testing.T) map[int]string {
	t.Helper()
	page := read(t, "docs/kubernetes.md")
	found := map[int]string{}
	for _, set := range regexp.MustCompile(`--set (\S*nodePort\S*)`).FindAllStringSubmatch(page, -1) {
		values, err := strvals.Parse(set[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, service := range renderValues(t, "helm/rebound", "rebound", values).ofKind("Service") {
			for _, port := range service.Spec.Ports {
				if port.NodePort != 0 {
					found[port.NodePort] = regexp.MustCompile(fmt.Sprintf(`localhost:%d`, port.NodePort)).FindString(page)
				}
			}
		}
	}
	return found
}
