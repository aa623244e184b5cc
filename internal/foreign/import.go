package foreign

import (
	"bytes"
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// System names another system, as in lab import --from NAME.
type System string

// The systems.
const (
	Istio        System = "istio"
	Envoy        System = "envoy"
	EnvoyGateway System = "envoy-gateway"
	GatewayAPI   System = "gateway-api"
	Linkerd      System = "linkerd"
	Dapr         System = "dapr"
	Resilience4j System = "resilience4j"
	DotNet       System = "dotnet"
	GRPC         System = "grpc"
	AWS          System = "aws"
	Nginx        System = "nginx"
	HAProxy      System = "haproxy"
	Caddy        System = "caddy"
	Traefik      System = "traefik"
)

// dialect reads the files of one system.
type dialect struct {
	system System
	// parse returns the values of the file. Most systems read YAML.
	parse func(name string, data []byte) ([]*node, error)
	read  func(r *reader, roots []*node) []Policy
	fold  func(key string) string
}

func dialects() []dialect {
	return []dialect{
		{Istio, parseYAML, readIstio, nil},
		{Envoy, parseEnvoy, readEnvoy, nil},
		{EnvoyGateway, parseYAML, readEnvoyGateway, nil},
		{GatewayAPI, parseYAML, readGatewayAPI, nil},
		{Linkerd, parseYAML, readLinkerd, nil},
		{Dapr, parseYAML, readDapr, nil},
		{Resilience4j, parseSpring, readResilience4j, relaxed},
		{DotNet, parseDotNet, readDotNet, strings.ToLower},
		{GRPC, parseYAML, readGRPC, strings.ToLower},
		{AWS, parseAWS, readAWS, nil},
		{Nginx, parseNginx, readNginx, nil},
		{HAProxy, parseHAProxy, readHAProxy, nil},
		{Caddy, parseCaddy, readCaddy, nil},
		{Traefik, parseTraefik, readTraefik, nil},
	}
}

// Systems returns the names of all systems.
func Systems() []string {
	var names []string
	for _, d := range dialects() {
		names = append(names, string(d.system))
	}
	return names
}

// Result is what a file says.
type Result struct {
	System   System
	Policies []Policy
	Report   Report
}

// Import reads the text of a file, which errors and reports call name. An empty system means the
// one that the file shows.
//
// The error is a *[mistake.List] for mistakes in the file, and a *[NoPolicies] if it has neither
// mistakes nor policies.
func Import(system System, name string, data []byte) (*Result, error) {
	result, err := load(system, name, data)
	return result, templateMistakes(name, data, err)
}

func load(system System, name string, data []byte) (*Result, error) {
	if system == "" {
		if system = Detect(name, data); system == "" {
			return nil, unknownSystem(name, data)
		}
	}
	all := dialects()
	i := slices.IndexFunc(all, func(d dialect) bool { return d.system == system })
	if i < 0 {
		return nil, fmt.Errorf("unknown system %q, expected one of %s", system, strings.Join(Systems(), ", "))
	}
	if m := templateLine(name, data); m != nil && (system == Nginx || system == HAProxy) {
		return nil, mistake.List{m}.Err() // the text parses, but a condition may leave parts of it out
	}
	return all[i].load(name, data)
}

// ImportGatewayAPI is [Import] for the system [GatewayAPI]. A program that calls only this one does
// not contain the other systems.
func ImportGatewayAPI(name string, data []byte) (*Result, error) {
	result, err := dialect{GatewayAPI, parseYAML, readGatewayAPI, nil}.load(name, data)
	return result, templateMistakes(name, data, err)
}

func (d dialect) load(name string, data []byte) (*Result, error) {
	system := d.system
	roots, err := d.parse(name, data)
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, mistake.List{{File: name, Line: 1, Column: 1, Message: "is empty"}}.Err()
	}
	r := &reader{file: name, fold: d.fold, lone: system == Envoy}
	r.countNamespaces(roots)
	policies := d.read(r, roots)
	if len(policies) == 0 && len(r.errs) == 0 {
		return nil, &NoPolicies{r.nothing(system)}
	}
	report, err := r.result(roots)
	if err != nil {
		return nil, err
	}
	unique(policies)
	return &Result{system, policies, report}, nil
}

// unknownSystem returns the error for a file that shows no system.
func unknownSystem(name string, data []byte) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return mistake.List{{File: name, Line: 1, Column: 1, Message: "is empty"}}.Err()
	}
	if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
		if _, err := config.Documents(name, data); err != nil {
			return err
		}
	}
	return cmp.Or(NoSettings(name, data), fmt.Errorf("%s: does not show which system it is for: use --from NAME", name))
}

// NoPolicies is the error for a file that has no mistakes and no policies, such as one with a
// Deployment only.
type NoPolicies struct{ err error }

// Error says what the file has instead.
func (e *NoPolicies) Error() string { return e.err.Error() }

// Unwrap returns the mistakes that say so, if there are any.
func (e *NoPolicies) Unwrap() error { return e.err }

// NoSettings returns a *[NoPolicies] if all objects in a file are of Kubernetes and none shows a
// system. The empty list that kubectl prints for the wrong namespace is such a file, and so is a
// kustomization, whose apiVersion and kind may be left out. It returns a *[mistake.List] if a
// system reads an object's kind, but from another API group: that is misspelled, or of a system
// that is not read. Otherwise it returns nil.
func NoSettings(name string, data []byte) error {
	roots, err := parseYAML(name, data)
	if err != nil || len(roots) == 0 {
		return nil
	}
	var kinds []string
	r := &reader{file: name}
	for _, root := range roots {
		objects := []*node{root}
		if strings.HasSuffix(root.get("kind").value(), "List") && root.get("items") != nil {
			objects = root.get("items").items
		}
		for _, object := range objects {
			if len(roots) == 1 && isKustomization(name, object) && !Own(data) {
				kinds = append(kinds, "Kustomization")
				continue
			}
			if object.get("apiVersion") == nil || object.get("kind").value() == "" {
				return nil
			}
			if groups, kind := otherGroups(object); len(groups) > 0 {
				r.failGroup(object, groups, kind)
			}
			kinds = append(kinds, clip(object.get("kind").value()))
		}
	}
	if len(r.errs) > 0 {
		return r.errs.Err()
	}
	if len(kinds) == 0 {
		return &NoPolicies{fmt.Errorf("%s: is a list without objects: kubectl has found none, is the namespace right?", name)}
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	return &NoPolicies{fmt.Errorf("%s: has no object with retries, timeouts or breakers, only of kind %s", name, strings.Join(kinds[:min(len(kinds), 5)], ", "))}
}

// ownKeys matches a key that a configuration of Rebound has at its top level.
var ownKeys = regexp.MustCompile(`(?m)^(routes|policies|upstreams|listener)\s*:`)

// Own reports whether a text looks like a configuration of Rebound.
func Own(data []byte) bool { return ownKeys.Match(data) }

// isKustomization reports whether a mapping is what kustomize reads from a file with this name.
func isKustomization(name string, n *node) bool {
	base, _, _ := strings.Cut(filepath.Base(name), ".")
	return strings.EqualFold(base, "kustomization") && n.shape == mapping && n.get("kind") == nil
}

// nothing says that a file gives no policy, and why, if it has settings.
func (r *reader) nothing(system System) error {
	const message = "has no settings of %s for retries, timeouts or breakers"
	i := slices.IndexFunc(r.report, func(e Entry) bool { return e.Kind == Dropped })
	if i < 0 {
		r.failAt(1, 1, "", message, system)
		return r.errs.Err()
	}
	e := r.report[i]
	r.failAt(e.Line, e.Column, e.Path, message+": %s", system, e.Sentence)
	return r.errs.Err()
}

// unique numbers policies with the same name.
func unique(policies []Policy) {
	seen := map[string]int{}
	for i := range policies {
		p := &policies[i]
		if p.Name == "" {
			p.Name = "default"
		}
		seen[p.Name]++
		if n := seen[p.Name]; n > 1 {
			p.Name = fmt.Sprintf("%s-%d", p.Name, n)
			seen[p.Name]++
		}
	}
}

// Detect returns the system that a file is for, by its text and its name, or "".
func Detect(name string, data []byte) System {
	const apiVersion = `(?m)(?:^|[{,])\s*-?\s*["']?apiVersion["']?\s*:\s*["']?`
	for _, sign := range []struct {
		system  System
		pattern string
	}{
		// A Kubernetes object names its API. The order matters: a route of the Gateway API is for
		// Linkerd if it has annotations of Linkerd.
		{Istio, apiVersion + `networking\.istio\.io/`},
		{EnvoyGateway, apiVersion + `gateway\.envoyproxy\.io/`},
		{Linkerd, apiVersion + `(linkerd|policy\.linkerd)\.io/`},
		{Linkerd, `(?m)^\s*["']?(retry|timeout|balancer)\.(alpha\.)?linkerd\.io/`},
		{Dapr, apiVersion + `dapr\.io/`},
		{GatewayAPI, apiVersion + `gateway\.networking\.(x-)?k8s\.io/`},
		{Traefik, apiVersion + `traefik\.(io|containo\.us)/`},
		{Resilience4j, `(?m)^\s*resilience4j\b`},
		{Envoy, `(?m)^\s*-?\s*["']?(static_resources|staticResources|virtual_hosts|virtualHosts|outlier_detection|circuit_breakers|lb_policy|load_assignment|retry_policy|retry_on|hedge_policy)["']?\s*:`},
		{GRPC, `(methodConfig|retryThrottling)["']?\s*:`},
		{DotNet, `(?i)"(AttemptTimeout|TotalRequestTimeout|MaxRetryAttempts|BreakDuration|BackoffType|MinimumThroughput)"\s*:`},
		{Traefik, `(?m)^\s*\[?\[?(http|tcp)\.(routers|services|middlewares|serversTransports)`},
		{Traefik, `(?m)^http:\s*$(\s*#.*$|\s*$)*\s+(routers|services|middlewares|serversTransports):`},
		{Caddy, `"handler"\s*:\s*"reverse_proxy"|(?m)^\s*reverse_proxy\b`},
		{HAProxy, `(?m)^(frontend|backend|listen|defaults)\b[^{:]*$`},
		{Nginx, `(?m)^\s*(proxy_pass|proxy_next_upstream|upstream\s+[^\s{]+\s*\{|grpc_pass)`},
		{AWS, `(?m)^\s*\[(default|profile\s+[^\]]+)\]|^\s*(export\s+)?AWS_(RETRY_MODE|MAX_ATTEMPTS)=`},
	} {
		if regexp.MustCompile(sign.pattern).Match(data) {
			return sign.system
		}
	}
	switch base := strings.ToLower(filepath.Base(name)); {
	case base == "caddyfile":
		return Caddy
	case base == "haproxy.cfg":
		return HAProxy
	case strings.HasSuffix(base, ".conf") && bytes.Contains(data, []byte(";")):
		return Nginx
	}
	return ""
}
