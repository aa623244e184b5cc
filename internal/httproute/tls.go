package httproute

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/pkg/gateway"
)

// tlsPolicy is what a BackendTLSPolicy says of one Service.
type tlsPolicy struct {
	name     string // of the policy
	service  string // NAMESPACE/NAME
	hostname string
	used     bool // a rule names the Service
	at       *yaml.Node
	path     string
}

// tlsObject is a BackendTLSPolicy, as far as it is read here.
type tlsObject struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		TargetRefs yaml.Node `yaml:"targetRefs"`
		Validation struct {
			Hostname string
			CAs      yaml.Node `yaml:"caCertificateRefs"`
			Names    yaml.Node `yaml:"subjectAltNames"`
		}
		Options yaml.Node
	}
}

type target struct {
	Group, Kind, Name string
	Section           yaml.Node `yaml:"sectionName"`
}

// backendTLS reads the BackendTLSPolicies at n. Without them a Service would be called in plain
// text.
func (m *maker) backendTLS(n *yaml.Node, path string) {
	var kind struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Items      []yaml.Node
	}
	if n.Decode(&kind) != nil {
		return // noted when the routes are read
	}
	if strings.HasSuffix(kind.Kind, "List") {
		for i := range kind.Items {
			m.backendTLS(&kind.Items[i], fmt.Sprintf("%s.items[%d]", path, i))
		}
		return
	}
	var o tlsObject
	if kind.Kind != "BackendTLSPolicy" || !strings.HasPrefix(kind.APIVersion, group) || !m.decode(n, path, &o) {
		return
	}
	path += ".spec"
	v := &o.Spec.Validation
	if given(v.CAs) {
		m.note(&v.CAs, path+".validation.caCertificateRefs", "not carried over: the upstream trusts the system's CAs; others are in a file of Rebound's, tls.caFile of an upstream")
	}
	if given(v.Names) {
		m.note(&v.Names, path+".validation.subjectAltNames", "not carried over: the certificate must be for the hostname")
	}
	if given(o.Spec.Options) {
		m.note(&o.Spec.Options, path+".options", "not carried over")
	}
	if !given(o.Spec.TargetRefs) {
		// As in v1alpha2, whose targetRef and tls are other fields.
		m.note(n, path+".targetRefs", "not carried over: there is none, so no Service is called with TLS")
		return
	}
	var targets []yaml.Node
	if !m.decode(&o.Spec.TargetRefs, path+".targetRefs", &targets) {
		return
	}
	for i := range targets {
		at := fmt.Sprintf("%s.targetRefs[%d]", path, i)
		var to target
		switch {
		case !m.decode(&targets[i], at, &to):
		case to.Group != "" || to.Kind != "Service" || to.Name == "":
			m.note(&targets[i], at, "not carried over: not a Service")
		default:
			if given(to.Section) {
				m.note(&to.Section, at+".sectionName", "not carried over: every port of the Service that a rule names is called with TLS")
			}
			p := tlsPolicy{
				name: o.Metadata.Name, service: serviceKey(to.Name, o.Metadata.Namespace), hostname: v.Hostname,
				at: &targets[i], path: at,
			}
			if first := m.tlsOf(p.service); first != nil {
				m.note(&targets[i], at, "not carried over: %s has the Service already", first.name)
			} else {
				m.tls = append(m.tls, p)
			}
		}
	}
}

// unusedTLS notes the BackendTLSPolicies for Services that no rule names. One of them may be meant
// for a Service that is called in plain text, because only one of the two has a namespace.
func (m *maker) unusedTLS() {
	for _, p := range m.tls {
		if !p.used {
			m.note(p.at, p.path, "has no effect: no rule here names the Service %s", p.service)
		}
	}
}

func serviceKey(name, namespace string) string { return cmp.Or(namespace, "default") + "/" + name }

// tlsOf returns what the file says of TLS to a Service, or nil.
func (m *maker) tlsOf(service string) *tlsPolicy {
	for i := range m.tls {
		if m.tls[i].service == service {
			return &m.tls[i]
		}
	}
	return nil
}

// address returns the upstream of a port of a Service: its URL, or the name of an upstream with
// TLS.
func (m *maker) address(name, namespace string, port int) string {
	host := name
	if namespace != "" {
		host += "." + namespace
	}
	address := host + ":" + strconv.Itoa(port)
	p := m.tlsOf(serviceKey(name, namespace))
	if p == nil {
		return "http://" + address
	}
	p.used = true
	if m.upstreams[address] == "" {
		u := gateway.DefaultUpstream("https://" + address)
		u.TLS.ServerName = p.hostname
		if m.config.Upstreams == nil {
			m.config.Upstreams = map[string]gateway.Upstream{}
		}
		m.upstreams[address] = m.upstreamNames.free(host + "-" + strconv.Itoa(port))
		m.config.Upstreams[m.upstreams[address]] = u
	}
	return m.upstreams[address]
}
