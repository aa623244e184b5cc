package foreign_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
)

const (
	virtualService  = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec:\n  http:\n    - route: [{destination: {host: a}}]\n"
	destinationRule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nspec:\n  host: a\n  trafficPolicy:\n"
	route           = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec:\n  rules:\n    - backendRefs: [{name: a}]\n"
	traffic         = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nspec:\n"
	service         = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n"
	resiliency      = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nspec:\n"
)

// refusals are files that must not be imported, by the name of what is wrong.
func refusals() map[string]struct {
	system foreign.System
	text   string
} {
	type c = struct {
		system foreign.System
		text   string
	}
	return map[string]c{
		"any/empty":                 {foreign.Istio, "# nothing\n"},
		"any/another system":        {foreign.Linkerd, virtualService},
		"any/not text":              {foreign.Nginx, "\x00"},
		"any/unknown system":        {"consul", "a: b"},
		"any/no sign":               {"", "a: b"},
		"any/not YAML":              {foreign.Istio, "a: [b\n"},
		"any/a field twice":         {foreign.Istio, virtualService + "      timeout: 1s\n      timeout: 2s\n"},
		"any/an anchor in itself":   {foreign.Istio, "a: &a\n  b: *a\n"},
		"any/no object":             {foreign.Istio, "- 1\n"},
		"istio/field":               {foreign.Istio, virtualService + "      retries: {attemptz: 3}\n"},
		"istio/field in route":      {foreign.Istio, virtualService + "      retry: {attempts: 3}\n"},
		"istio/field far away":      {foreign.Istio, virtualService + "      retries: {attempts: 3, circuit: x}\n"},
		"istio/kind":                {foreign.Istio, strings.Replace(virtualService, "VirtualService", "VirtualServices", 1)},
		"istio/number":              {foreign.Istio, virtualService + "      retries: {attempts: many}\n"},
		"istio/negative":            {foreign.Istio, virtualService + "      retries: {attempts: -1}\n"},
		"istio/duration":            {foreign.Istio, virtualService + "      timeout: 10\n"},
		"istio/condition":           {foreign.Istio, virtualService + "      retries: {attempts: 3, retryOn: \"5xx,conect-failure\"}\n"},
		"istio/status":              {foreign.Istio, virtualService + "      retries: {attempts: 3, retryOn: \"503,599\"}\n"},
		"istio/list":                {foreign.Istio, virtualService + "      retries: [3]\n"},
		"istio/percent":             {foreign.Istio, destinationRule + "    outlierDetection: {maxEjectionPercent: 101}\n"},
		"istio/snake":               {foreign.Istio, destinationRule + "    outlierDetection: {base_ejection_time: 30s}\n"},
		"istio/boolean":             {foreign.Istio, destinationRule + "    outlierDetection: {splitExternalLocalOriginErrors: perhaps}\n"},
		"istio/two mistakes":        {foreign.Istio, destinationRule + "    outlierDetection: {intervall: 1s, baseEjectionTime: soon}\n"},
		"envoy/field":               {foreign.Envoy, "name: a\nconnect_timeout: 1s\noutlier_detection: {consecutive_5x: 3}\n"},
		"envoy/camel":               {foreign.Envoy, "name: a\nconnectTimeout: 1s\ncircuitBreakers: {thresholds: [{maxRetry: 3}]}\n"},
		"envoy/duration":            {foreign.Envoy, "name: a\nconnect_timeout: 250ms\n"},
		"envoy/condition":           {foreign.Envoy, "retry_on: 5xx,503\n"},
		"envoy/no time":             {foreign.Envoy, "name: a\nconnect_timeout: 0s\noutlier_detection: {interval: 0s, base_ejection_time: 0s, max_ejection_time: 0s}\n"},
		"envoy/waits":               {foreign.Envoy, "retry_on: 5xx\nretry_back_off: {base_interval: 5s, max_interval: 1s}\n"},
		"envoy/no wait":             {foreign.Envoy, "retry_on: 5xx\nretry_back_off: {base_interval: 0s}\n"},
		"gateway-api/low status":    {foreign.GatewayAPI, route + "      retry: {codes: [399]}\n"},
		"gateway-api/timeouts":      {foreign.GatewayAPI, route + "      timeouts: {request: 1s, backendRequest: 2s}\n"},
		"envoy-gateway/waits":       {foreign.EnvoyGateway, traffic + "  retry: {perRetry: {backOff: {baseInterval: 5s, maxInterval: 1s}}}\n"},
		"envoy-gateway/no wait":     {foreign.EnvoyGateway, traffic + "  retry: {perRetry: {backOff: {baseInterval: 0s}}}\n"},
		"envoy-gateway/two rules":   {foreign.EnvoyGateway, traffic + "  rateLimit: {local: {rules: [{limit: {requests: 3, unit: Hour}}, {limit: {requests: 4, unit: Day}}]}}\n"},
		"gateway-api/field":         {foreign.GatewayAPI, route + "      retry: {code: [500]}\n"},
		"gateway-api/duration":      {foreign.GatewayAPI, route + "      timeouts: {request: 1.5s}\n"},
		"gateway-api/status":        {foreign.GatewayAPI, route + "      retry: {codes: [600]}\n"},
		"envoy-gateway/field":       {foreign.EnvoyGateway, traffic + "  retry: {numRetry: 3}\n"},
		"envoy-gateway/trigger":     {foreign.EnvoyGateway, traffic + "  retry: {retryOn: {triggers: [connection-failure]}}\n"},
		"envoy-gateway/unit":        {foreign.EnvoyGateway, traffic + "  rateLimit: {local: {rules: [{limit: {requests: 3, unit: Week}}]}}\n"},
		"linkerd/annotation":        {foreign.Linkerd, service + "    retry.linkerd.io/htp: 5xx\n"},
		"linkerd/status":            {foreign.Linkerd, service + "    retry.linkerd.io/http: 5x\n"},
		"linkerd/status class":      {foreign.Linkerd, service + "    retry.linkerd.io/http: 4xx\n"},
		"linkerd/duration":          {foreign.Linkerd, service + "    timeout.linkerd.io/request: 1m30s\n"},
		"linkerd/fraction":          {foreign.Linkerd, service + "    timeout.linkerd.io/request: 1.5s\n"},
		"linkerd/no unit":           {foreign.Linkerd, service + "    timeout.linkerd.io/request: \"5\"\n"},
		"linkerd/penalties":         {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: consecutive\n    balancer.linkerd.io/failure-accrual-consecutive-min-penalty: 5m\n"},
		"linkerd/no penalty":        {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: consecutive\n    balancer.linkerd.io/failure-accrual-consecutive-max-penalty: 0s\n"},
		"linkerd/no failures":       {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: consecutive\n    balancer.linkerd.io/failure-accrual-consecutive-max-failures: \"0\"\n"},
		"linkerd/requests":          {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: unified\n    balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests: '2000000'\n"},
		"linkerd/window":            {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: unified\n    balancer.alpha.linkerd.io/failure-accrual-success-rate-window: 5ms\n"},
		"linkerd/grpc":              {foreign.Linkerd, service + "    retry.linkerd.io/grpc: unavailabl\n"},
		"linkerd/accrual":           {foreign.Linkerd, service + "    balancer.linkerd.io/failure-accrual: success\n"},
		"dapr/name":                 {foreign.Dapr, resiliency + "  policies: {retries: {often: {maxRetries: 3}}}\n  targets: {apps: {a: {retry: oftn}}}\n"},
		"dapr/field":                {foreign.Dapr, resiliency + "  policies: {retries: {often: {maxRetry: 3}}}\n  targets: {apps: {a: {retry: often}}}\n"},
		"dapr/policy":               {foreign.Dapr, resiliency + "  policies: {retries: {often: {policy: linear}}}\n  targets: {apps: {a: {retry: often}}}\n"},
		"dapr/status":               {foreign.Dapr, resiliency + "  policies: {retries: {often: {matching: {httpStatusCodes: \"500,abc\"}}}}\n  targets: {apps: {a: {retry: often}}}\n"},
		"dapr/status class":         {foreign.Dapr, resiliency + "  policies: {retries: {often: {matching: {httpStatusCodes: \"5xx\"}}}}\n  targets: {apps: {a: {retry: often}}}\n"},
		"resilience4j/field":        {foreign.Resilience4j, "resilience4j.retry.instances.a.maxAttemps: 3\n"},
		"resilience4j/module":       {foreign.Resilience4j, "resilience4j:\n  circuit-braker: {}\n"},
		"resilience4j/root":         {foreign.Resilience4j, "resilence4j:\n  retry: {}\n"},
		"resilience4j/base":         {foreign.Resilience4j, "resilience4j:\n  retry:\n    configs: {shared: {}}\n    instances: {a: {baseConfig: sharde}}\n"},
		"resilience4j/duration":     {foreign.Resilience4j, "resilience4j:\n  retry:\n    instances: {a: {waitDuration: 5 minutes}}\n"},
		"resilience4j/no rate":      {foreign.Resilience4j, "resilience4j.circuitbreaker.instances.a.failureRateThreshold: 0\n"},
		"resilience4j/no open time": {foreign.Resilience4j, "resilience4j.circuitbreaker.instances.a.waitDurationInOpenState: 0\n"},
		"resilience4j/no period":    {foreign.Resilience4j, "resilience4j.ratelimiter.instances.a.limitRefreshPeriod: 0\n"},
		"resilience4j/both waits":   {foreign.Resilience4j, "resilience4j.circuitbreaker.instances.a: {waitDurationInOpenState: 1s, enableExponentialBackoff: true, enableRandomizedWait: true}\n"},
		"resilience4j/idle value":   {foreign.Resilience4j, "resilience4j.retry.instances.a: {exponentialMaxWaitDuration: soon}\n"},
		"resilience4j/two units":    {foreign.Resilience4j, "resilience4j:\n  retry:\n    instances: {a: {waitDuration: 1m30s}}\n"},
		"resilience4j/properties":   {foreign.Resilience4j, "resilience4j.retry.instances.a.max-attempts=3\nresilience4j.retry.instances.a.max-attempts=4\n"},
		"resilience4j/placeholder":  {foreign.Resilience4j, "resilience4j.retry.instances.a.max-attempts=${MAX}\n"},
		"dotnet/field":              {foreign.DotNet, `{"R": {"Retry": {"MaxRetryAttempts": 3, "MaxDelays": "00:00:05"}}}`},
		"dotnet/span":               {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "10s"}}}`},
		"dotnet/a day":              {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "24:00:00"}}}`},
		"dotnet/minutes":            {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:90:00"}}}`},
		"dotnet/short":              {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:00:00.001"}, "CircuitBreaker": {"SamplingDuration": "00:00:00", "BreakDuration": "2.00:00:00"}}}`},
		"dotnet/total":              {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:00:12"}, "TotalRequestTimeout": {"Timeout": "00:00:11"}}}`},
		"dotnet/sampling":           {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:00:20"}, "CircuitBreaker": {"SamplingDuration": "00:00:30"}}}`},
		"dotnet/part":               {foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:00:10"}, "CircuitBraker": {}}}`},
		"grpc/field":                {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempt": 3, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"grpc/method alone":         {foreign.GRPC, `{"methodConfig": [{"name": [{"method": "Get"}], "timeout": "1s"}]}`},
		"grpc/both":                 {foreign.GRPC, `{"methodConfig": [{"name": [{}], "hedgingPolicy": {"maxAttempts": 3}, "retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"grpc/missing":              {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3}}]}`},
		"grpc/status":               {foreign.GRPC, `{"methodConfig": [{"hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["UNAVALABLE", 99]}}]}`},
		"grpc/factor 0":             {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 0, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"grpc/no wait":              {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"grpc/no longest wait":      {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "0s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"grpc/no statuses":          {foreign.GRPC, `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": []}}]}`},
		"grpc/no tokens":            {foreign.GRPC, `{"retryThrottling": {"maxTokens": 0, "tokenRatio": 0.1}, "methodConfig": []}`},
		"grpc/no ratio":             {foreign.GRPC, `{"retryThrottling": {"maxTokens": 10, "tokenRatio": 0}, "methodConfig": []}`},
		"grpc/ratio missing":        {foreign.GRPC, `{"retryThrottling": {"maxTokens": 10}, "methodConfig": []}`},
		"grpc/attempts":             {foreign.GRPC, `{"methodConfig": [{"hedgingPolicy": {"maxAttempts": 1}}]}`},
		"aws/mode":                  {foreign.AWS, "[default]\nretry_mode = fast\n"},
		"aws/key":                   {foreign.AWS, "[default]\nmax_atempts = 3\nretry_mode = standard\n"},
		"aws/line":                  {foreign.AWS, "[default]\nwhat is this\n"},
		"nginx/setting":             {foreign.Nginx, "server { location / { proxy_conect_timeout 5s; proxy_pass http://a; } }"},
		"nginx/proxy":               {foreign.Nginx, "server { location / { proxy_something on; proxy_pass http://a; } }"},
		"nginx/module":              {foreign.Nginx, "upstreem a { server b; }\nserver { location / { proxy_pass http://a; } }"},
		"nginx/parameter":           {foreign.Nginx, "upstream a { server b max_fail=3; }\nserver { location / { proxy_pass http://a; } }"},
		"nginx/condition":           {foreign.Nginx, "server { location / { proxy_next_upstream error timout; proxy_pass http://a; } }"},
		"nginx/time":                {foreign.Nginx, "server { location / { proxy_read_timeout soon; proxy_pass http://a; } }"},
		"nginx/brace":               {foreign.Nginx, "server {\n  location / {\n"},
		"nginx/semicolon":           {foreign.Nginx, "server { listen 80 }"},
		"nginx/setting twice":       {foreign.Nginx, "server { location / { proxy_read_timeout 5s;\n proxy_read_timeout 6s; proxy_pass http://a; } }"},
		"nginx/upstream twice":      {foreign.Nginx, "upstream a { server b; }\nupstream a { server c; }\nserver { location / { proxy_pass http://a; } }"},
		"nginx/order of units":      {foreign.Nginx, "server { location / { proxy_read_timeout 1s1m; proxy_pass http://a; } }"},
		"haproxy/two units":         {foreign.HAProxy, "backend a\n  timeout server 1m30s\n  server b c:80\n"},
		"haproxy/timeout":           {foreign.HAProxy, "backend a\n  timeout conect 5s\n  server b c:80\n"},
		"haproxy/keyword":           {foreign.HAProxy, "backend a\n  retrys 3\n  server b c:80\n"},
		"haproxy/condition":         {foreign.HAProxy, "backend a\n  retry-on 503 conn-failures\n  server b c:80\n"},
		"haproxy/parameter":         {foreign.HAProxy, "backend a\n  server b c:80 check maxcon 5\n"},
		"haproxy/no option":         {foreign.HAProxy, "backend a\n  no option redispach\n  server b c:80\n"},
		"haproxy/section":           {foreign.HAProxy, "retries 3\n"},
		"haproxy/defaults":          {foreign.HAProxy, "backend a from b\n  server b c:80\n"},
		"haproxy/quote":             {foreign.HAProxy, "backend a\n  server b \"c:80 maxconn 5\n"},
		"haproxy/conditional":       {foreign.HAProxy, "backend a\n  .if defined(X)\n  retries 9\n  .else\n  retries 5\n  .endif\n  server b c:80\n"},
		"haproxy/backend twice":     {foreign.HAProxy, "backend a\n  server b c:80\nlisten a\n  server b c:80\n"},
		"caddy/setting":             {foreign.Caddy, "a.example.com {\n\treverse_proxy b:80 {\n\t\tlb_retry 3\n\t}\n}\n"},
		"caddy/no unit":             {foreign.Caddy, "reverse_proxy b:80 {\n\tlb_try_duration 500\n}\n"},
		"caddy/status range":        {foreign.Caddy, "reverse_proxy b:80 {\n\tunhealthy_status 500-504\n}\n"},
		"caddy/status word":         {foreign.Caddy, "reverse_proxy b:80 {\n\tunhealthy_status gateway-error\n}\n"},
		"caddy/replaced":            {foreign.Caddy, "reverse_proxy b:80 {\n\tlb_retries many\n\tlb_retries 2\n}\n"},
		"caddy/transport":           {foreign.Caddy, "reverse_proxy b:80 {\n\ttransport http {\n\t\tdial_timeot 1s\n\t}\n}\n"},
		"caddy/directive":           {foreign.Caddy, "a.example.com {\n\treverse_prox b:80\n\treverse_proxy c:80\n}\n"},
		"caddy/status":              {foreign.Caddy, "reverse_proxy b:80 {\n\tunhealthy_status 6xx\n}\n"},
		"caddy/json":                {foreign.Caddy, `{"handler": "reverse_proxy", "load_balancing": {"retires": 3}}`},
		"traefik/field":             {foreign.Traefik, "http: {middlewares: {a: {retry: {attemptz: 3}}}}\n"},
		"traefik/middleware":        {foreign.Traefik, "http: {middlewares: {a: {circuitBraker: {}}}}\n"},
		"traefik/expression":        {foreign.Traefik, "http: {middlewares: {a: {circuitBreaker: {}}}}\n"},
		"traefik/toml":              {foreign.Traefik, "[http.middlewares.a.retry]\nattempts = three\n"},
		"traefik/toml twice":        {foreign.Traefik, "[http.middlewares.a.retry]\nattempts = 3\nattempts = 4\n"},
		"traefik/status class":      {foreign.Traefik, "http: {middlewares: {a: {retry: {attempts: 3, status: [5xx]}}}}\n"},
		"traefik/two kinds":         {foreign.Traefik, "http: {middlewares: {a: {retry: {attempts: 3}, rateLimit: {average: 5}}}}\n"},
		"traefik/two kinds CRD":     {foreign.Traefik, "apiVersion: traefik.io/v1alpha1\nkind: Middleware\nmetadata: {name: a}\nspec: {retry: {attempts: 3}, inFlightReq: {amount: 5}}\n"},
		"traefik/status":            {foreign.Traefik, "http: {middlewares: {a: {retry: {attempts: 3, status: [\"500-400\"]}}}}\n"},
	}
}

// Each refusal has the text of the golden file, with the place of the mistake.
func TestRefusals(t *testing.T) {
	cases := refusals()
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		result, err := foreign.Import(c.system, "FILE", []byte(c.text))
		if err == nil {
			t.Errorf("%s: imported %+v, want a mistake", name, result.Policies)
			continue
		}
		fmt.Fprintf(&got, "%s\n  %s\n", name, strings.ReplaceAll(err.Error(), "\n", "\n  "))
	}
	golden.File(t, "testdata/refusals.txt", got.String())
}
