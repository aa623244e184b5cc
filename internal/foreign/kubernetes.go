package foreign

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
)

// kubernetes reads the objects of the kinds, by "GROUP/KIND", and the items of a List. Objects of
// kinds that no system has here say nothing about failures.
func (r *reader) kubernetes(roots []*node, kinds map[string]action) {
	for _, root := range roots {
		group, _, named := strings.Cut(root.get("apiVersion").value(), "/")
		if !named {
			group = "" // the core, v1
		}
		kind := root.get("kind").value()
		switch {
		case root.shape != mapping || kind == "":
			r.fail(root, "expected a Kubernetes object with apiVersion and kind")
		case strings.HasSuffix(kind, "List") && root.get("items") != nil && root.get("items").shape == list:
			r.kubernetes(root.get("items").items, kinds)
			r.mark(root.get("kind"), Unrelated, "")
			for _, item := range root.items {
				if item.key != "items" {
					ignore(r, item)
				}
			}
		case kinds[group+"/"+kind] != nil:
			kinds[group+"/"+kind](r, root)
		default:
			if near := nearKind(group, kind, kinds); near != "" {
				r.fail(root.get("kind"), "unknown kind %s, did you mean %s?", kind, near)
			}
			if system := kindOf(group + "/" + kind); system != "" {
				r.mark(root, Dropped, "is read with --from "+string(system))
			}
			if kind == "EnvoyFilter" {
				r.mark(root, Dropped, "a patch of Envoy's own configuration is not read")
			}
			ignore(r, root)
		}
	}
}

// kindOf returns the system whose import reads the objects of a kind, or "".
func kindOf(kind string) System {
	return map[string]System{
		"networking.istio.io/VirtualService":                Istio,
		"networking.istio.io/DestinationRule":               Istio,
		"gateway.envoyproxy.io/BackendTrafficPolicy":        EnvoyGateway,
		"gateway.networking.k8s.io/HTTPRoute":               GatewayAPI,
		"gateway.networking.k8s.io/GRPCRoute":               GatewayAPI,
		"gateway.networking.x-k8s.io/XBackendTrafficPolicy": GatewayAPI,
		"linkerd.io/ServiceProfile":                         Linkerd,
		"policy.linkerd.io/HTTPRoute":                       Linkerd,
		"dapr.io/Resiliency":                                Dapr,
		"traefik.io/Middleware":                             Traefik,
		"traefik.io/ServersTransport":                       Traefik,
	}[kind]
}

// nearKind returns the kind of the same group that kind is a misspelling of, or "".
func nearKind(group, kind string, kinds map[string]action) string {
	for _, known := range slices.Sorted(maps.Keys(kinds)) {
		if name, ok := strings.CutPrefix(known, group+"/"); ok && config.Distance(strings.ToLower(kind), strings.ToLower(name)) <= 1 {
			return name
		}
	}
	return ""
}

// countNamespaces notes the names that objects of several namespaces have, so that policies show
// the namespace where the name does not tell them apart.
func (r *reader) countNamespaces(roots []*node) {
	in := map[string]string{}
	var count func(n *node)
	count = func(n *node) {
		if n.get("apiVersion") == nil || n.get("kind") == nil {
			return
		}
		for _, item := range n.get("items").all() {
			count(item)
		}
		name, namespace := n.at("metadata", "name").value(), namespaceOf(n)
		if other, again := in[name]; again && other != namespace && name != "" {
			if r.shared == nil {
				r.shared = map[string]bool{}
			}
			r.shared[name] = true
		}
		in[name] = namespace
	}
	for _, root := range roots {
		count(root)
	}
}

// namespaceOf returns the namespace of an object.
func namespaceOf(n *node) string {
	return cmp.Or(n.at("metadata", "namespace").value(), "default")
}

// objectName returns metadata.name for people, with the namespace if another has the same name.
func (r *reader) objectName(n *node) string {
	switch name := n.at("metadata", "name").value(); {
	case name == "":
		return strings.ToLower(n.get("kind").value())
	case r.shared[name]:
		return namespaceOf(n) + "/" + name
	default:
		return name
	}
}

// objectKey returns what tells apart the objects of one kind: NAMESPACE/NAME. A reference without a
// namespace is to an object of the given one.
func objectKey(reference *node, namespace string) string {
	return cmp.Or(reference.get("namespace").value(), namespace) + "/" + reference.get("name").value()
}

// kubernetesObject returns the fields of any object, with the given spec.
func kubernetesObject(spec action) fields {
	return fields{"spec": spec}.ignoring("apiVersion", "kind", "metadata", "status")
}
