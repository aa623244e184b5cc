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
		group, kind := groupOf(root), root.get("kind").value()
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
			if groups, kind := otherGroups(root); slices.ContainsFunc(groups, func(g string) bool { return config.Distance(g, group) <= 3 }) {
				r.failGroup(root, groups, kind)
			} else if len(groups) > 0 {
				r.mark(root, Dropped, "objects of "+cmp.Or(clip(group), "the core's group")+" are not read")
			}
			if system := systemKinds()[group+"/"+kind]; system != "" {
				r.mark(root, Dropped, "is read with --from "+string(system))
			}
			if kind == "EnvoyFilter" {
				r.mark(root, Dropped, "a patch of Envoy's own configuration is not read")
			}
			ignore(r, root)
		}
	}
}

// systemKinds returns the system whose import reads the objects of a kind, by "GROUP/KIND".
func systemKinds() map[string]System {
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
		"traefik.io/IngressRoute":                           Traefik,
		"traefik.io/Middleware":                             Traefik,
		"traefik.io/ServersTransport":                       Traefik,
		"traefik.containo.us/IngressRoute":                  Traefik,
		"traefik.containo.us/Middleware":                    Traefik,
		"traefik.containo.us/ServersTransport":              Traefik,
	}
}

// otherGroups returns the API groups from which a system reads objects of this kind, and the kind's
// name there, if the object is of none of them.
func otherGroups(object *node) (groups []string, name string) {
	for known := range systemKinds() {
		group, kind, _ := strings.Cut(known, "/")
		if !strings.EqualFold(kind, object.get("kind").value()) {
			continue
		}
		if group == groupOf(object) {
			return nil, ""
		}
		groups, name = append(groups, group), kind
	}
	slices.Sort(groups)
	return groups, name
}

// failGroup notes that an object is of an API group from which no system reads its kind. Its
// policies would else be lost without a word.
func (r *reader) failGroup(object *node, groups []string, kind string) {
	at := object.get("apiVersion")
	if at == nil {
		at = object
	}
	r.fail(at, "expected %s for the kind %s, got %s", strings.Join(groups, " or "), kind, cmp.Or(clip(groupOf(object)), "none"))
}

// groupOf returns the API group of an object; "" is the core's.
func groupOf(object *node) string {
	group, _, named := strings.Cut(object.get("apiVersion").value(), "/")
	if !named {
		return ""
	}
	return group
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
