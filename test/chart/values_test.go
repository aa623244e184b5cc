package chart_test

import (
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/engine"
)

// Helm refuses unknown and impossible values, with their path, before it sends anything.
func TestWrongValues(t *testing.T) {
	for name, tc := range map[string]struct {
		values string
		want   string // parts of the error, divided by " … "
	}{
		"unknown key":                    {"clients: {}", "'clients' not allowed"},
		"unknown key of a component":     {"client: {replicaCount: 3}", "at '/client': … 'replicaCount' not allowed"},
		"unknown key far down":           {"client: {podDisruptionBudget: {min: 1}}", "at '/client/podDisruptionBudget': … 'min' not allowed"},
		"number as text":                 {"flakyServer: {replicas: '3'}", "at '/flakyServer/replicas': got string, want integer"},
		"negative number":                {"client: {replicas: -1}", "at '/client/replicas': minimum"},
		"fraction of a pod":              {"client: {replicas: 1.5}", "at '/client/replicas'"},
		"yes for true":                   {"jaeger: {enabled: 'yes'}", "at '/jaeger/enabled': got string, want boolean"},
		"tag as a number":                {"client: {image: {tag: 1.0}}", "at '/client/image/tag': got number, want string"},
		"tag in the repository":          {"client: {image: {repository: 'rebound/client:1.0'}}", "at '/client/image/repository'"},
		"short digest":                   {"client: {image: {digest: 'sha256:abc'}}", "at '/client/image/digest'"},
		"pull policy":                    {"flakyServer: {image: {pullPolicy: Sometimes}}", "at '/flakyServer/image/pullPolicy'"},
		"Jaeger without a tag":           {"jaeger: {image: {tag: ''}}", "at '/jaeger/image/tag'"},
		"node port of a ClusterIP":       {"client: {service: {nodePort: 30080}}", "at '/client/service/nodePort'"},
		"duration without a unit":        {"client: {drainDelay: 5}", "at '/client/drainDelay'"},
		"duration of days":               {"client: {drainDelay: 1d}", "at '/client/drainDelay'"},
		"negative duration":              {"flakyServer: {drainDelay: -5s}", "at '/flakyServer/drainDelay'"},
		"variable that is a number":      {"client: {extraEnv: [{name: A, value: 1}]}", "at '/client/extraEnv/0/value'"},
		"variable without a name":        {"client: {extraEnv: [{value: a}]}", "at '/client/extraEnv/0': … 'name'"},
		"mount over the configuration":   {"client: {extraVolumeMounts: [{name: x, mountPath: /etc/rebound}]}", "at '/client/extraVolumeMounts/0/mountPath'"},
		"argument that is no flag":       {"client: {extraArgs: [serve]}", "at '/client/extraArgs/0'"},
		"amount of memory":               {"client: {resources: {limits: {memory: 256MB}}}", "at '/client/resources/limits/memory'"},
		"kind of resources":              {"client: {resources: {limit: {cpu: 1}}}", "at '/client/resources': … 'limit' not allowed"},
		"Service without a port":         {"client: {service: {port: 0}}", "at '/client/service/port'"},
		"port of the admin's":            {"client: {service: {port: 8081}}", "at '/client/service/port'"},
		"type of Service":                {"client: {service: {type: Headless}}", "at '/client/service/type'"},
		"admin port for the world":       {"client: {service: {type: LoadBalancer}}", "at '/client/service/admin'"},
		"metrics without a port":         {"serviceMonitor: {enabled: true}\nclient: {metricsService: {enabled: false}}", "at '/client/metricsService/enabled'"},
		"metrics twice":                  {"serviceMonitor: {enabled: true}\npodMonitor: {enabled: true}", "podMonitor.enabled: serviceMonitor.enabled is true too"},
		"metrics for nobody":             {"podMonitor: {enabled: true}\nnetworkPolicy: {enabled: true}", "networkPolicy.adminFrom: is empty, so Prometheus could not scrape"},
		"scrape of a pod too long":       {"podMonitor: {enabled: true, interval: 1m, scrapeTimeout: 61s}", "podMonitor.scrapeTimeout: must be at most interval (1m), got 61s"},
		"a former value":                 {"client: {restartOnConfigChange: true}", "'restartOnConfigChange' not allowed"},
		"files of no upstream":           {"client: {upstreams: {orders: {certificate: {secret: a}}}}", "client.upstreams.orders: config.upstreams has no entry orders, expected one of none"},
		"a CA of two":                    {"client: {upstreams: {orders: {ca: {secret: a, configMap: b}}}}", "at '/client/upstreams/orders/ca'"},
		"a header without a key":         {"client: {upstreams: {orders: {headers: {A: {secret: a}}}}}", "at '/client/upstreams/orders/headers/A'"},
		"a CA that is there already":     {"client: {upstreams: {a: {ca: {secret: b}}}}\nconfig: {upstreams: {a: {url: 'https://a', tls: {caFile: /c}}}}", "client.upstreams.a: config.upstreams.a.tls.caFile is set too"},
		"a header that is there already": {"client: {upstreams: {a: {headers: {A: {secret: b, key: c}}}}}\nconfig: {upstreams: {a: {url: 'https://a', headers: {A: d}}}}", "client.upstreams.a.headers: config.upstreams.a.headers.A is set too"},
		"two certificates":               {"client: {tls: {secretName: a}}\nconfig: {listener: {tls: {certFile: /a, keyFile: /b}}}", "client.tls: config.listener.tls.certFile is set too"},
		"certificate of nobody":          {"client: {tls: {certificate: {enabled: true}}}", "at '/client/tls/certificate/issuerRef': missing property 'name'"},
		"test over TLS":                  {"client: {tls: {secretName: a}}\ntest: {path: /process}", "test.path: the data port speaks TLS"},
		"KEDA without autoscaling":       {"client: {autoscaling: {keda: {enabled: true, serverAddress: 'http://a'}}}", "client.autoscaling.keda.enabled: client.autoscaling.enabled is false"},
		"metrics beside KEDA":            {"client: {autoscaling: {enabled: true, keda: {enabled: true, serverAddress: 'http://a'}, metrics: [{type: Pods, pods: {metric: {name: a}, target: {type: AverageValue, averageValue: 1}}}]}}", "client.autoscaling.metrics: are for a HorizontalPodAutoscaler"},
		"annotations of no account":      {"serviceAccount: {create: false, annotations: {a: b}}", "serviceAccount.annotations: serviceAccount.create is false, … annotate default"},
		"KEDA without a trigger":         {"client: {autoscaling: {enabled: true, keda: {enabled: true}}}", "client.autoscaling.keda: needs serverAddress"},
		"traffic policy of a ClusterIP":  {"client: {service: {externalTrafficPolicy: Local}}", "at '/client/service/externalTrafficPolicy'"},
		"family of addresses":            {"ipFamilies: [ipv6]", "at '/ipFamilies/0'"},
		"unknown default":                {"podDefaults: {tolerance: []}", "at '/podDefaults': … 'tolerance' not allowed"},
		"a second client":                {"client: {extraContainers: [{name: client, image: a}]}", "at '/client/extraContainers/0/name'"},
		"a probe's path":                 {"client: {readinessProbe: {httpGet: {path: /}}}", "at '/client/readinessProbe': … 'httpGet' not allowed"},
		"an object without a kind":       {"extraObjects: [{apiVersion: v1, metadata: {name: a}}]", "at '/extraObjects/0': … 'kind'"},
		"a word for a number":            {"config: {policies: {default: {retry: {budget: {ratio: half}}}}}", "at '/config/policies/default/retry/budget/ratio'"},
		"share above all":                {"client: {podDisruptionBudget: {maxUnavailable: 110%}}", "at '/client/podDisruptionBudget/maxUnavailable'"},
		"no pods at the most":            {"client: {autoscaling: {maxReplicas: 0}}", "at '/client/autoscaling/maxReplicas'"},
		"more at least than at most":     {"client: {autoscaling: {enabled: true, minReplicas: 11}}", "client.autoscaling.minReplicas: must be at most maxReplicas (10), got 11"},
		"relative path of an Ingress":    {"client: {ingress: {hosts: [{host: a, paths: [{path: a, pathType: Prefix}]}]}}", "at '/client/ingress/hosts/0/paths/0/path'"},
		"type of path":                   {"client: {ingress: {hosts: [{host: a, paths: [{path: /, pathType: prefix}]}]}}", "at '/client/ingress/hosts/0/paths/0/pathType'"},
		"HTTPRoute without a Gateway":    {"client: {httpRoute: {enabled: true}}", "at '/client/httpRoute/parentRefs'"},
		"spread with a selector":         {"client: {topologySpread: [{topologyKey: zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule, labelSelector: {}}]}", "at '/client/topologySpread/0': … 'labelSelector' not allowed"},
		"effect of a taint":              {"client: {tolerations: [{effect: NoRun}]}", "at '/client/tolerations/0/effect'"},
		"label that the chart sets":      {"commonLabels: {app.kubernetes.io/name: x}", "at '/commonLabels/app.kubernetes.io~1name'"},
		"label that is too long":         {"client: {podLabels: {a: '" + strings.Repeat("x", 64) + "'}}", "at '/client/podLabels/a'"},
		"name":                           {"fullnameOverride: Second", "at '/fullnameOverride'"},
		"a name that would be cut":       {"fullnameOverride: " + strings.Repeat("x", 42), "at '/fullnameOverride'"},
		"no path of an endpoint":         {"otel: {endpoint: 'collector:4318'}", "at '/otel/endpoint'"},
		"protocol":                       {"otel: {protocol: http}", "at '/otel/protocol'"},
		"attribute of two lines":         {"otel: {resourceAttributes: {a: \"b\\nc\"}}", "at '/otel/resourceAttributes/a'"},
		"attribute with a blank":         {"otel: {resourceAttributes: {'a b': c}}", "at '/otel/resourceAttributes': … 'a b' not allowed"},
		"interval":                       {"serviceMonitor: {interval: fast}", "at '/serviceMonitor/interval'"},
		"peer of nothing":                {"networkPolicy: {from: [{}]}", "at '/networkPolicy/from/0'"},
		"path of the test":               {"test: {path: process}", "at '/test/path'"},
		"root as a user of Jaeger's":     {"jaeger: {runAsUser: 0}", "at '/jaeger/runAsUser'"},
		"route without an upstream":      {"config: {routes: [{name: a, match: /}]}", "at '/config/routes/0': … 'upstream'"},
		"unknown key of a policy":        {"config: {policies: {default: {retries: 3}}}", "at '/config/policies/default': … 'retries' not allowed"},
		"timeout without a unit":         {"config: {policies: {default: {timeout: 5}}}", "at '/config/policies/default/timeout'"},
		"jitter":                         {"config: {policies: {default: {retry: {backoff: {jitter: some}}}}}", "at '/config/policies/default/retry/backoff/jitter'"},
		"text for a list of statuses":    {"config: {policies: {default: {retry: {statuses: '503'}}}}", "at '/config/policies/default/retry/statuses'"},
		"unknown fault":                  {"flakyServer: {faults: {errorrate: 1}}", "at '/flakyServer/faults': … 'errorrate' not allowed"},
		"rate in percent":                {"flakyServer: {faults: {errorRate: 30%}}", "at '/flakyServer/faults/errorRate'"},
		"window without an end":          {"flakyServer: {faults: {schedule: [{at: 1s}]}}", "at '/flakyServer/faults/schedule/0': … 'for'"},
		"no configuration":               {"config: null", "at '': missing property 'config'"},
		"no routes":                      {"config: {routes: []}", "at '/config/routes': minItems"},
		"null for routes":                {"config: {routes: null}", "at '/config': missing property 'routes'"},
		"null for a component":           {"client: null", "at '': missing property 'client'"},
		"null for a part of one":         {"client: {image: null}", "at '/client': missing property 'image'"},
		"null for a number":              {"flakyServer: {replicas: null}", "at '/flakyServer': missing property 'replicas'"},
		"null for the faults":            {"flakyServer: {faults: null}", "at '/flakyServer': missing property 'faults'"},
		"nothing to scale by":            {"client: {autoscaling: {enabled: true, targetCPUUtilizationPercentage: null}}", "at '/client/autoscaling/metrics': minItems"},
		"two families, one by default":   {"ipFamilies: [IPv6, IPv4]", "at '/ipFamilyPolicy'"},
		"two families, one by choice":    {"{ipFamilyPolicy: SingleStack, ipFamilies: [IPv6, IPv4]}", "at '/ipFamilyPolicy'"},
		"budget of all when few":         {"client: {podDisruptionBudget: {minAvailable: 1}, autoscaling: {enabled: true, minReplicas: 1, maxReplicas: 3}}", "client.podDisruptionBudget.minAvailable: must be less than client.autoscaling.minReplicas (1) … got 1"},
		"budget of all, by KEDA":         {"client: {podDisruptionBudget: {minAvailable: 2}, autoscaling: {enabled: true, keda: {enabled: true, serverAddress: 'http://a'}}}", "client.podDisruptionBudget.minAvailable: must be less than client.autoscaling.minReplicas (2) … got 2"},
		"budget of all":                  {"client: {podDisruptionBudget: {minAvailable: 3}, replicas: 3}", "client.podDisruptionBudget.minAvailable: must be less than client.replicas (3) … got 3"},
		"budget of all, as a share":      {"client: {podDisruptionBudget: {minAvailable: 51%}, replicas: 2}", "client.podDisruptionBudget.minAvailable: must be less than client.replicas (2) … got 51%, which is 2"},
		"budget of an unknown number":    {"client: {podDisruptionBudget: {minAvailable: 1}, replicas: null}", "client.podDisruptionBudget.minAvailable: … client.replicas is null … maxUnavailable"},
		"budget of nothing":              {"client: {podDisruptionBudget: {maxUnavailable: null}}", "at '/client/podDisruptionBudget': missing property 'maxUnavailable'"},
		"budget of no pod":               {"client: {podDisruptionBudget: {maxUnavailable: 0}}", "client.podDisruptionBudget.maxUnavailable: must let one pod go … got 0"},
		"budget of no pod, as a share":   {"client: {podDisruptionBudget: {maxUnavailable: 0%}}", "client.podDisruptionBudget.maxUnavailable: must let one pod go … got 0%"},
		"plain HTTP/2 over TLS":          {"client: {service: {appProtocol: kubernetes.io/h2c}, tls: {secretName: a}}", "client.service.appProtocol: kubernetes.io/h2c is without TLS … client.tls"},
		"scrape longer than its turn":    {"serviceMonitor: {enabled: true, interval: 1m, scrapeTimeout: 61s}", "serviceMonitor.scrapeTimeout: must be at most interval (1m), got 61s"},
		"units of an interval":           {"serviceMonitor: {interval: 1s1h}", "at '/serviceMonitor/interval'"},
		"no interval":                    {"serviceMonitor: {interval: ''}", "at '/serviceMonitor/interval'"},
		"port of the probes":             {"client: {extraArgs: ['--admin=:9000']}", "at '/client/extraArgs/0'"},
		"port, by one dash":              {"client: {extraArgs: ['-listen=:9000']}", "at '/client/extraArgs/0'"},
		"port, in two arguments":         {"client: {extraArgs: [--traces=http://a, --listen, ':9000']}", "at '/client/extraArgs/1'"},
		"another configuration":          {"client: {extraArgs: [--config=/tmp/a]}", "at '/client/extraArgs/0'"},
		"another drain delay":            {"client: {extraArgs: [--drain-delay=1s]}", "at '/client/extraArgs/0'"},
		"another drain timeout":          {"client: {extraArgs: [--drain-timeout=1h]}", "at '/client/extraArgs/0'"},
		"an upstream besides the file":   {"client: {extraArgs: ['--upstream=http://a']}", "at '/client/extraArgs/0'"},
		"only a check":                   {"client: {extraArgs: [--check]}", "at '/client/extraArgs/0'"},
		"end of the flags":               {"client: {extraArgs: [--]}", "at '/client/extraArgs/0'"},
		"port by a variable":             {"client: {extraEnv: [{name: REBOUND_LISTEN, value: ':9000'}]}", "at '/client/extraEnv/0/name'"},
		"seed that Helm would round":     {"flakyServer: {seed: 9007199254740993}", "at '/flakyServer/seed': maximum"},
		"label of a selector":            {"client: {podLabels: {app.kubernetes.io/instance: x}}", "at '/client/podLabels/app.kubernetes.io~1instance'"},
		"upstream that is not installed": {"flakyServer: {enabled: false}", "config.routes[0].upstream: flakyServer.enabled is false, so there is no http://flaky-server:5000"},
		"buttons as text":                {"client: {faultControls: 'yes'}", "at '/client/faultControls': got string, want boolean"},
		"buttons of nobody":              {"flakyServer: {enabled: false}\nclient: {faultControls: true}\nconfig: {routes: [{name: a, match: /, upstream: 'http://a'}]}", "client.faultControls: flakyServer.enabled is false, so there is no http://flaky-server:5001"},
		"two sets of buttons":            {"client: {faultControls: true, extraArgs: [-log-level=debug, '--faults=http://a:5001']}", "at '/client/extraArgs/1'"},
		"the same, by one dash":          {"client: {faultControls: true, extraArgs: ['-faults=http://a:5001']}", "at '/client/extraArgs/0'"},
		"the same, by a variable":        {"client: {faultControls: true, extraEnv: [{name: REBOUND_FAULTS, value: 'http://a:5001'}]}", "at '/client/extraEnv/0/name'"},
		"buttons by a bare name":         {"fullnameOverride: second\nclient: {extraArgs: [-log-level=debug, '--faults=http://flaky-server:5001']}", "client.extraArgs[1]: … client.faultControls"},
		"a bare name, by one dash":       {"fullnameOverride: second\nclient: {extraArgs: ['-faults=https://flaky-server/faults']}", "client.extraArgs[0]: … client.faultControls"},
		"a bare name, by a variable":     {"fullnameOverride: second\nclient: {extraEnv: [{name: REBOUND_FAULTS, value: 'http://flaky-server:5001'}]}", "client.extraEnv[0].value: … client.faultControls"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := render(t, "rebound", parse(t, tc.values))
			if err == nil {
				t.Fatal("the values were accepted, want an error")
			}
			rest := err.Error()
			for part := range strings.SplitSeq(tc.want, " … ") {
				_, after, found := strings.Cut(rest, part)
				if !found {
					t.Fatalf("got\n%v\nwant %q in it", err, tc.want)
				}
				rest = after
			}
		})
	}
}

// Helm accepts what a platform may need.
func TestRightValues(t *testing.T) {
	for name, values := range map[string]string{
		"users that the platform assigns": "podSecurityContext: {runAsUser: null, runAsGroup: null}\njaeger: {enabled: true, runAsUser: null}",
		"no autoscaling by CPU":           "client: {autoscaling: {enabled: true, targetCPUUtilizationPercentage: null, metrics: [{type: Pods, pods: {metric: {name: calls}, target: {type: AverageValue, averageValue: 100}}}]}}",
		"only KEDA":                       "client: {autoscaling: {enabled: true, targetCPUUtilizationPercentage: null, keda: {enabled: true, serverAddress: 'http://a'}}}",
		"probes of the cluster's times":   "client: {startupProbe: {periodSeconds: null, failureThreshold: null}, livenessProbe: {periodSeconds: null, timeoutSeconds: null}, readinessProbe: {periodSeconds: null, timeoutSeconds: null, failureThreshold: null}}",
		"a load balancer":                 "client: {service: {type: LoadBalancer, admin: false}}",
		"no probes by Helm":               "test: {enabled: false}\nnetworkPolicy: {enabled: true}",
		"a node port":                     "client: {service: {type: NodePort, nodePort: 30080, admin: false}}",
		"durations of zero":               "client: {drainDelay: 0}\nflakyServer: {drainDelay: 0s}",
		"a fraction of a second":          "client: {drainDelay: 1.5s}\nflakyServer: {drainDelay: 250ms}",
		"every kind of window":            "flakyServer: {faults: {schedule: [{for: 1s, errorRate: null, latency: {distribution: fixed, value: 1s}}]}}",
		"values of a parent chart":        "global: {anything: true}",
		"whole CPUs":                      "client: {resources: {requests: {cpu: 2, memory: 1Gi}}}",
		"no pods":                         "client: {replicas: 0}",
		"other flags":                     "client: {extraArgs: ['--faults=http://flaky-server.other:5001', --traces=http://localhost:16686, -log-level=debug]}",
		"other variables":                 "client: {extraEnv: [{name: REBOUND_TRACES, value: 'http://a'}, {name: REBOUND_FAULTS, value: 'http://flaky-server-2:5001'}]}",
		"buttons beside other flags":      "client: {faultControls: true, extraArgs: [--traces=http://a], extraEnv: [{name: A, value: b}]}",
		"every notation of an amount":     "client: {resources: {requests: {cpu: .5, memory: 1e6, example.com/a: 1P}, limits: {cpu: 1., memory: 1Pi, example.com/a: 1E3, example.com/b: 1Ei, example.com/c: 100n, example.com/d: 5u, example.com/e: +1.5e+1}}}",
		"null for the unused share":       "client: {podDisruptionBudget: {maxUnavailable: null, minAvailable: 1}}",
		"null for the other share":        "client: {podDisruptionBudget: {minAvailable: null}}",
		"all but one stay":                "client: {replicas: 3, podDisruptionBudget: {minAvailable: 2}}",
		"half of two stay":                "client: {podDisruptionBudget: {minAvailable: 50%}}",
		"none need stay":                  "client: {replicas: null, podDisruptionBudget: {minAvailable: 0}}",
		"a disabled budget of all":        "client: {podDisruptionBudget: {enabled: false, minAvailable: 2}}",
		"a disabled budget":               "client: {podDisruptionBudget: {enabled: false, maxUnavailable: null}}",
		"no scaling, by nothing":          "client: {autoscaling: {targetCPUUtilizationPercentage: null}}",
		"an unused budget of no pod":      "client: {podDisruptionBudget: {maxUnavailable: 0, minAvailable: 1}}",
		"a disabled budget of no pod":     "client: {podDisruptionBudget: {enabled: false, maxUnavailable: 0%}}",
		"a small share":                   "client: {podDisruptionBudget: {maxUnavailable: 1%}}",
		"HTTP/2 in TLS":                   "client: {service: {appProtocol: https}, tls: {secretName: a}}",
		"a scrape as long as its turn":    "serviceMonitor: {enabled: true, interval: 1m30s, scrapeTimeout: 90s}",
		"any number of pods":              "client: {replicas: null}",
		"one family":                      "ipFamilies: [IPv6]",
		"two families, the newer first":   "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]}",
		"addresses of version 6":          "{otel: {endpoint: 'http://[fd00::1]:4318'}, networkPolicy: {enabled: true, egress: [{to: [{ipBlock: {cidr: 'fd00::/8'}}]}]}, config: {routes: [{name: a, match: /, upstream: 'http://[fd00::2]:8080'}]}}",
		"a label of its own":              "commonLabels: {a: b}\nclient: {podLabels: {a: c}}",
	} {
		t.Run(name, func(t *testing.T) {
			lintStrict(t, parse(t, values))
			checkReferences(t, mustRender(t, "rebound", parse(t, values)))
		})
	}
}

// Null, also an empty line in a file of values, removes an optional value and is refused for a
// required one.
func TestNull(t *testing.T) {
	// Other values decide whether these are needed.
	dependent := []string{"client.httpRoute.parentRefs", "client.tls.certificate.issuerRef", "networkPolicy.adminFrom", "client.podDisruptionBudget.maxUnavailable", "client.autoscaling.targetCPUUtilizationPercentage"}
	for _, scenario := range []string{"default-values", "jaeger-values", "production-values"} {
		values := scenarios(t)[scenario]
		for _, k := range keys(t) {
			if k.standard == "" {
				continue // a group, whose parts are there too
			}
			at, last := values, k.path[len(k.path)-1]
			for _, name := range k.path[:len(k.path)-1] {
				if at[name] == nil {
					at[name] = map[string]any{}
				}
				at = at[name].(map[string]any)
			}
			before, given := at[last]
			at[last] = nil
			if k.needed && scenario == "default-values" {
				_, err := render(t, "rebound", values)
				if err == nil || !strings.Contains(err.Error(), "missing property '"+last+"'") {
					t.Errorf("%s: null for %s: got %v, want that it is missing", scenario, k, err)
				}
			}
			if k.needed || slices.Contains(dependent, k.String()) {
				delete(at, last)
				if given {
					at[last] = before
				}
			}
		}
		r, err := renderBy(t, engine.Engine{}, "rebound", values)
		if err != nil {
			t.Fatalf("%s: %v", scenario, err)
		}
		for _, m := range r.manifests {
			if strings.Contains(m.Content, "<no value>") || strings.Contains(m.Content, "<nil>") {
				t.Errorf("%s: %s has a gap, want none:\n%s", scenario, m.Name, m.Content)
			}
		}
		checkSelectors(t, r)
	}
}
