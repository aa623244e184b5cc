package foreign_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// HAProxy takes back an option with "no" before it.
func TestHAProxyTakesBackAnOption(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{"no": "no option redispatch", "default": "default option redispatch"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := named(t, imported(t, foreign.HAProxy, "defaults\n option redispatch\nbackend a\n "+line+"\n server b c:80\n"), "a")
			if p.Retry.OtherEndpoint || !p.Retry.SameEndpoint {
				t.Errorf("got another endpoint = %v, the same = %v, want the same", p.Retry.OtherEndpoint, p.Retry.SameEndpoint)
			}
		})
	}
}

// The last of two settings counts where the other system replaces the first.
func TestLastOfTwoSettings(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		system foreign.System
		text   string
		line   int // of the first
	}{
		"HAProxy, timeout":  {system: foreign.HAProxy, text: "backend a\n timeout server 1s\n timeout server 2s\n server b c:80\n", line: 2},
		"HAProxy, retries":  {system: foreign.HAProxy, text: "backend a\n retries 1\n retries 2\n server b c:80\n", line: 2},
		"HAProxy, retry-on": {system: foreign.HAProxy, text: "backend a\n retry-on 503\n retry-on 504\n server b c:80\n", line: 2},
		"HAProxy, option":   {system: foreign.HAProxy, text: "backend a\n option redispatch\n no option redispatch\n server b c:80\n", line: 2},
		"AWS, variable":     {system: foreign.AWS, text: "# both\nAWS_MAX_ATTEMPTS=3\nexport AWS_MAX_ATTEMPTS=5\n", line: 2},
		"AWS, setting":      {system: foreign.AWS, text: "[default]\nmax_attempts = 3\nmax_attempts = 5\n", line: 2},
		"AWS, section":      {system: foreign.AWS, text: "[default]\nmax_attempts = 3\n[default]\nmax_attempts = 5\n", line: 2},
		"Caddy, retries":    {system: foreign.Caddy, text: "reverse_proxy b {\n lb_retries 1\n lb_retries 2\n}\n", line: 2},
		"Caddy, duration":   {system: foreign.Caddy, text: "reverse_proxy b {\n fail_duration 1s\n fail_duration 2s\n}\n", line: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, c.system, c.text)
			for _, e := range result.Report {
				if e.Kind == foreign.Default || e.Kind == foreign.Unrelated {
					continue
				}
				if dropped := e.Kind == foreign.Dropped; dropped != (e.Line == c.line) {
					t.Errorf("line %d is %s: %s", e.Line, e.Kind, e.Sentence)
				}
			}
			for field, places := range result.Policies[0].From {
				for _, place := range places {
					if place.Line == c.line {
						t.Errorf("%s comes from line %d, which is replaced", field, place.Line)
					}
				}
			}
		})
	}
}

// nginx adds up what several proxy_next_upstream of a block say; an inner block replaces it.
func TestNginxNextUpstreamAddsUp(t *testing.T) {
	t.Parallel()
	const text = "server { proxy_next_upstream http_500; location / { proxy_next_upstream http_502;\n proxy_next_upstream http_503; proxy_pass http://a; } }"
	p := imported(t, foreign.Nginx, text).Policies[0]
	for code, want := range map[int]bool{500: false, 502: true, 503: true} {
		if got := p.Retry.On.Status(code); got != want {
			t.Errorf("retries status %d = %v, want %v", code, got, want)
		}
	}
}

// Caddy takes a wait of 0 for its default if retries have a time limit, and so does not spin.
func TestCaddyWaitsBetweenTries(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want time.Duration
	}{
		"0 with a time limit": {"reverse_proxy b {\n lb_try_duration 5s\n lb_try_interval 0\n}\n", 250 * time.Millisecond},
		"0 in JSON":           {`{"handler": "reverse_proxy", "load_balancing": {"try_duration": 5000000000, "try_interval": 0}}`, 250 * time.Millisecond},
		"0 with a number":     {"reverse_proxy b {\n lb_retries 5\n lb_try_interval 0\n}\n", 0},
		"a day and a half":    {"reverse_proxy b {\n lb_retries 5\n lb_try_interval 1.5d\n}\n", 36 * time.Hour},
		"hours and days":      {"reverse_proxy b {\n lb_retries 5\n lb_try_interval 1h1d\n}\n", 25 * time.Hour},
		"nanoseconds":         {`{"handler": "reverse_proxy", "load_balancing": {"retries": 5, "try_interval": 500000}}`, 500 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := imported(t, foreign.Caddy, c.text).Policies[0].Retry.Backoff.Base; got != c.want {
				t.Errorf("wait = %v, want %v", got, c.want)
			}
		})
	}
}

// Caddy takes a dial_timeout of 0 for its default.
func TestCaddyDialTimeoutOfZero(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.Caddy, "reverse_proxy b {\n transport http {\n  dial_timeout 0\n }\n}\n").Policies[0]
	if p.ConnectTimeout != 3*time.Second {
		t.Errorf("dial timeout = %v, want 3s", p.ConnectTimeout)
	}
}

// Caddy retries a request that one of several matchers matches.
func TestCaddyRetryMatchersAddUp(t *testing.T) {
	t.Parallel()
	const text = "reverse_proxy b {\n lb_retries 5\n lb_retry_match {\n  method GET\n }\n lb_retry_match {\n  method PUT\n }\n}\n"
	if got, want := imported(t, foreign.Caddy, text).Policies[0].Retry.Methods, []string{"GET", "PUT"}; !slices.Equal(got, want) {
		t.Errorf("retries %v, want %v", got, want)
	}
}

// Dapr retries every error if a list of statuses is empty.
func TestDaprEmptyStatuses(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.Dapr, resiliency+"  policies: {retries: {often: {matching: {httpStatusCodes: '', gRPCStatusCodes: ''}}}}\n  targets: {apps: {a: {retry: often}}}\n").Policies[0]
	if !p.Retry.On.Status(404) || !p.Retry.On.Status(503) {
		t.Errorf("retries %v, want every error", p.Retry.On.Statuses)
	}
}

// Only sections of profiles have retries, also where others have settings of the same name.
func TestAWSOtherSections(t *testing.T) {
	t.Parallel()
	result := imported(t, foreign.AWS, "[default]\nmax_attempts = 3\n[services s]\nmax_attempts = 9\n[sso-session x]\nretry_mode = fast\n")
	if len(result.Policies) != 1 || result.Policies[0].Retry.MaxAttempts != 3 {
		t.Errorf("got %+v, want only the default profile", result.Policies)
	}
}

// Istio and Envoy Gateway pass some numbers to Envoy only if they are above 0.
func TestZeroThatMeansTheDefault(t *testing.T) {
	t.Parallel()
	const passive = traffic + "  healthCheck:\n    passive: "
	for name, c := range map[string]struct {
		system foreign.System
		text   string
		ejects float64
		local  int // consecutive failures of the detector for the client's own
	}{
		"Istio":                {foreign.Istio, destinationRule + "    outlierDetection: {maxEjectionPercent: 0}\n", 0.1, 0},
		"Istio, above 0":       {foreign.Istio, destinationRule + "    outlierDetection: {maxEjectionPercent: 1}\n", 0.01, 0},
		"Istio, local origin":  {foreign.Istio, destinationRule + "    outlierDetection: {consecutiveLocalOriginFailures: 0, splitExternalLocalOriginErrors: true}\n", 0.1, 5},
		"Envoy Gateway":        {foreign.EnvoyGateway, passive + "{maxEjectionPercent: 0}\n", 0.1, 0},
		"Envoy, which takes 0": {foreign.Envoy, "{name: a, outlier_detection: {max_ejection_percent: 0}}", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			local := 0
			for _, b := range imported(t, c.system, c.text).Policies[0].Breakers {
				if b.MaxEjected != c.ejects {
					t.Errorf("ejects %v, want %v", b.MaxEjected, c.ejects)
				}
				if b.ConsecutiveFailures > 0 && len(b.Counts.Statuses) == 0 {
					local = b.ConsecutiveFailures
				}
			}
			if local != c.local {
				t.Errorf("failures of the client = %d, want %d", local, c.local)
			}
		})
	}
}

// Envoy's detector by success rate is on where nothing switches it off. Istio does so, and Envoy
// Gateway does not.
func TestSuccessRateOfEnvoy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		system foreign.System
		text   string
		want   bool
	}{
		"Envoy":         {foreign.Envoy, "{name: a, outlier_detection: {consecutive_5xx: 3}}", true},
		"Envoy Gateway": {foreign.EnvoyGateway, traffic + "  healthCheck: {passive: {consecutive5XxErrors: 3}}\n", true},
		"Istio":         {foreign.Istio, destinationRule + "    outlierDetection: {consecutive5xxErrors: 3}\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			breakers := imported(t, c.system, c.text).Policies[0].Breakers
			if got := slices.ContainsFunc(breakers, func(b foreign.Breaker) bool { return b.BelowMean > 0 }); got != c.want {
				t.Errorf("compares with the mean = %v, want %v", got, c.want)
			}
		})
	}
}

// Of several limits with the same priority, Envoy takes the first. A priority may be a number.
func TestEnvoyTakesTheFirstThresholds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		thresholds string
		want       int
	}{
		"two":              {"[{max_requests: 5}, {priority: DEFAULT, max_requests: 7}]", 5},
		"another before":   {"[{priority: HIGH, max_requests: 5}, {max_requests: 7}]", 7},
		"another only":     {"[{priority: HIGH, max_requests: 5}]", 1024},
		"by its number":    {"[{priority: 0, max_requests: 5}]", 5},
		"another's number": {"[{priority: 1, max_requests: 5}]", 1024},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Envoy, "{name: a, circuit_breakers: {thresholds: "+c.thresholds+"}}")
			if got := result.Policies[0].Concurrency.MaxRequests; got != c.want {
				t.Errorf("requests = %d, want %d", got, c.want)
			}
		})
	}
}

// A route's timeout of 0s is none, also where a policy or an annotation has another.
func TestRouteWithoutTimeout(t *testing.T) {
	t.Parallel()
	const routes = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: a\n  annotations: {timeout.linkerd.io/request: 3s}\n" +
		"spec:\n  rules:\n    - backendRefs: [{name: a}]\n      timeouts: {request: 0s}\n"
	for name, c := range map[string]struct {
		system foreign.System
		text   string
	}{
		"Envoy Gateway": {foreign.EnvoyGateway, routes + "---\n" + traffic + "  targetRef: {kind: HTTPRoute, name: a}\n  timeout: {http: {requestTimeout: 3s}}\n"},
		"Linkerd":       {foreign.Linkerd, routes},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := named(t, imported(t, c.system, c.text), "a/0").Timeout; got != 0 {
				t.Errorf("timeout = %v, want none", got)
			}
		})
	}
}

// Linkerd's two rules for a breaker, each of which 0 switches off.
func TestLinkerdBreaker(t *testing.T) {
	t.Parallel()
	const (
		mode     = "    balancer.linkerd.io/failure-accrual: "
		failures = "    balancer.linkerd.io/failure-accrual-consecutive-max-failures: "
		rate     = "    balancer.alpha.linkerd.io/failure-accrual-success-rate-threshold: "
	)
	for name, c := range map[string]struct {
		annotations string
		breaker     bool
		failures    int
		ratio       float64
		dropped     string // the end of a path
	}{
		"unified":                    {mode + "unified\n" + rate + "'0.75'\n", true, 7, 0.25, ""},
		"unified, no rate":           {mode + "unified\n" + rate + "'0'\n", true, 7, 0, ""},
		"unified, any failure":       {mode + "unified\n" + rate + "'1'\n", true, 7, 1e-9, ""},
		"unified, failures are off":  {mode + "unified\n" + failures + "'0'\n" + rate + "'0.75'\n", true, 0, 0.25, ""},
		"unified, both off":          {mode + "unified\n" + failures + "'0'\n" + rate + "'0'\n    balancer.alpha.linkerd.io/failure-accrual-success-rate-min-requests: '2000000'\n", false, 0, 0, ""},
		"consecutive":                {mode + "consecutive\n" + rate + "'0.75'\n", true, 7, 0, `…"]`},
		"no mode":                    {failures + "'3'\n", false, 0, 0, `max-failures"]`},
		"no mode, days as a timeout": {rate + "'0.5'\n    timeout.linkerd.io/request: 1d\n", false, 0, 0, `…"]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Linkerd, service+c.annotations)
			breakers := result.Policies[0].Breakers
			if len(breakers) > 1 || len(breakers) == 1 != c.breaker {
				t.Fatalf("breakers = %d, want one = %v", len(breakers), c.breaker)
			}
			for _, b := range breakers {
				if b.ConsecutiveFailures != c.failures || b.FailureRatio != c.ratio {
					t.Errorf("opens at %d failures and a share of %v, want %d and %v", b.ConsecutiveFailures, b.FailureRatio, c.failures, c.ratio)
				}
			}
			if c.dropped != "" {
				wantKind(t, result, c.dropped, foreign.Dropped, "has no effect")
			}
		})
	}
}

// Dapr's defaults are for targets that the file does not name. One that it names has only what it
// names.
func TestDaprDefaultsAreForOthers(t *testing.T) {
	t.Parallel()
	result := imported(t, foreign.Dapr, resiliency+"  policies:\n    timeouts: {DefaultTimeoutPolicy: 2s}\n    retries: {DefaultAppRetryPolicy: {maxRetries: 4}, twice: {maxRetries: 2}}\n"+
		"  targets: {apps: {named: {retry: twice}, empty: {}}}\n")
	for name, want := range map[string]struct {
		timeout  time.Duration
		attempts int
	}{
		"app/named": {0, 3},
		"app/empty": {0, 1},
		"app/*":     {2 * time.Second, 5},
		"all/*":     {2 * time.Second, 1},
	} {
		p := named(t, result, name)
		if p.TryTimeout != want.timeout || p.Retry.MaxAttempts != want.attempts {
			t.Errorf("%s: timeout %v and %d attempts, want %v and %d", name, p.TryTimeout, p.Retry.MaxAttempts, want.timeout, want.attempts)
		}
	}
}

// Dapr's breaker takes 0 for its default of a minute, and a limit of 0 failures for one.
func TestDaprBreakerZeros(t *testing.T) {
	t.Parallel()
	b := imported(t, foreign.Dapr, resiliency+"  policies: {circuitBreakers: {c: {timeout: 0s, trip: consecutiveFailures >= 0}}}\n  targets: {apps: {a: {circuitBreaker: c}}}\n").Policies[0].Breakers[0]
	if b.OpenFor != time.Minute || b.ConsecutiveFailures != 1 {
		t.Errorf("open for %v after %d failures, want 1m after 1", b.OpenFor, b.ConsecutiveFailures)
	}
}

// Configurations of resilience4j inherit others by baseConfig, and the one named default. Only that
// of a breaker stands alone.
func TestResilience4jInherits(t *testing.T) {
	t.Parallel()
	const configs = "    configs: {default: {%: 7}, a: {baseConfig: b}, b: {baseConfig: c}, c: {}, loop: {baseConfig: loop}}\n"
	for name, c := range map[string]struct {
		module, setting, instance string
		want                      int
	}{
		"default":               {"retry", "maxAttempts", "{}", 7},
		"through three":         {"retry", "maxAttempts", "{baseConfig: a}", 7},
		"its own":               {"retry", "maxAttempts", "{baseConfig: a, maxAttempts: 4}", 4},
		"a loop":                {"retry", "maxAttempts", "{baseConfig: loop}", 3},
		"a breaker":             {"circuitbreaker", "permittedNumberOfCallsInHalfOpenState", "{}", 7},
		"a breaker with a base": {"circuitbreaker", "permittedNumberOfCallsInHalfOpenState", "{baseConfig: a}", 10},
		"a breaker's own name":  {"circuitbreaker", "permittedNumberOfCallsInHalfOpenState", "{}\n    configs.x: {permittedNumberOfCallsInHalfOpenState: 4}", 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "resilience4j:\n  " + c.module + ":\n" + strings.ReplaceAll(configs, "%", c.setting) + "    instances:\n      x: " + c.instance + "\n"
			p := named(t, imported(t, foreign.Resilience4j, text), "x")
			got := p.Retry.MaxAttempts
			if c.module == "circuitbreaker" {
				got = p.Breakers[0].HalfOpenCalls
			}
			if got != c.want {
				t.Errorf("%s = %d, want %d", c.setting, got, c.want)
			}
		})
	}
}

// What makes a wait of resilience4j grow counts only beside waitDuration.
func TestResilience4jGrowsBesideItsWait(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config, instance string
		grows            bool
		most             time.Duration
	}{
		"no wait":                  {"{}", "{enableExponentialBackoff: true}", false, 0},
		"a wait":                   {"{}", "{waitDuration: 1s, enableExponentialBackoff: yes}", true, 0},
		"a wait above":             {"{waitDuration: 1S}", "{enableExponentialBackoff: true}", false, 0},
		"both above":               {"{waitDuration: 1s, enableExponentialBackoff: true}", "{}", true, 0},
		"a wait below":             {"{enableExponentialBackoff: true}", "{waitDuration: 1s}", true, 0},
		"a longest wait":           {"{}", "{waitDuration: 1s, enableExponentialBackoff: true, exponentialBackoffMultiplier: 2, exponentialMaxWaitDuration: 9s}", true, 9 * time.Second},
		"a longest wait by itself": {"{}", "{waitDuration: 1s, enableExponentialBackoff: true, exponentialMaxWaitDuration: 9s}", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			result := imported(t, foreign.Resilience4j, "resilience4j:\n  retry:\n    configs: {default: "+c.config+"}\n    instances: {x: "+c.instance+"}\n")
			b := named(t, result, "x").Retry.Backoff
			if got := b.Kind == foreign.BackoffExponential; got != c.grows || b.Max != c.most {
				t.Errorf("grows = %v up to %v, want %v up to %v", got, b.Max, c.grows, c.most)
			}
		})
	}
}

// Spring takes the words of an enumeration in any spelling.
func TestSpringSpellings(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"TIME_BASED", "time_based", "time-based", "timeBased"} {
		b := imported(t, foreign.Resilience4j, "resilience4j.circuitbreaker.instances.a: {slidingWindowType: "+word+", slidingWindowSize: 30}\n").Policies[0].Breakers[0]
		if b.Window != 30*time.Second {
			t.Errorf("%s: a window of %v, want 30s", word, b.Window)
		}
	}
}

// .NET reads a key with colons as a path.
func TestDotNetPathsAsKeys(t *testing.T) {
	t.Parallel()
	p := named(t, imported(t, foreign.DotNet, `{"R:AttemptTimeout:Timeout": "00:00:05", "R": {"Retry": {"MaxRetryAttempts": 5}}}`), "R")
	if p.TryTimeout != 5*time.Second || p.Retry.MaxAttempts != 6 {
		t.Errorf("timeout %v and %d attempts, want 5s and 6", p.TryTimeout, p.Retry.MaxAttempts)
	}
}

// Polly's breaker with a ratio of 0 opens at any failure.
func TestDotNetRatioOfZero(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.DotNet, `{"R": {"CircuitBreaker": {"FailureRatio": 0, "MinimumThroughput": 2}}}`).Policies[0]
	if got := p.Breakers[0].FailureRatio; got <= 0 || got > 1e-6 {
		t.Errorf("ratio = %v, want the least above 0", got)
	}
}

// Traefik takes times of 0 for its defaults.
func TestTraefikZerosAreDefaults(t *testing.T) {
	t.Parallel()
	const middleware = "http: {middlewares: {a: "
	b := imported(t, foreign.Traefik, middleware+"{circuitBreaker: {expression: 'NetworkErrorRatio() > 0.5', checkPeriod: 0, fallbackDuration: 0s}}}}\n").Policies[0].Breakers[0]
	if b.CheckEvery != 100*time.Millisecond || b.OpenFor != 10*time.Second {
		t.Errorf("checks every %v, open for %v, want 100ms and 10s", b.CheckEvery, b.OpenFor)
	}
	if l := imported(t, foreign.Traefik, middleware+"{rateLimit: {average: 5, period: 0s}}}}\n").Policies[0].RateLimit; l.Per != time.Second {
		t.Errorf("period = %v, want 1s", l.Per)
	}
}

// Settings below another belong to it: a doubled one is no error, in the AWS CLI too.
func TestAWSNestedSettingTwice(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.AWS, "[default]\nmax_attempts = 4\ns3 =\n  multipart_threshold = 1MB\n  multipart_threshold = 2MB\n").Policies[0]
	if p.Retry.MaxAttempts != 4 {
		t.Errorf("attempts = %d, want 4", p.Retry.MaxAttempts)
	}
}

// Linkerd's injector reads its annotations as Go's durations; the policy controller reads others.
func TestLinkerdConnectTimeout(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.Linkerd, service+"    config.linkerd.io/proxy-outbound-connect-timeout: 1.5s\n    timeout.linkerd.io/request: 5s\n").Policies[0]
	if p.ConnectTimeout != 1500*time.Millisecond {
		t.Errorf("connect timeout = %v, want 1.5s", p.ConnectTimeout)
	}
}

// A null is no value: nothing excludes it.
func TestNullExcludesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		system foreign.System
		text   string
	}{
		"gRPC": {foreign.GRPC, `{"methodConfig": [{"name": [{}], "hedgingPolicy": null, "retryPolicy": {"maxAttempts": 3, "initialBackoff": "1s",
			"maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`},
		"Traefik": {foreign.Traefik, "http: {middlewares: {a: {rateLimit: null, retry: {attempts: 3}}}}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := imported(t, c.system, c.text).Policies[0].Retry.MaxAttempts; got != 3 {
				t.Errorf("attempts = %d, want 3", got)
			}
		})
	}
}

// A file of .NET may be a part of its configuration: what other files may set is no mistake here.
func TestDotNetPartOfAConfiguration(t *testing.T) {
	t.Parallel()
	result := imported(t, foreign.DotNet, `{"R": {"AttemptTimeout": {"Timeout": "00:01:00"}}}`)
	if got := result.Policies[0].TryTimeout; got != time.Minute {
		t.Errorf("timeout of an attempt = %v, want 1m", got)
	}
	told := 0
	for _, e := range result.Report {
		if e.Kind == foreign.Default && strings.Contains(e.Sentence, ".NET refuses it if") {
			told++
		}
	}
	if told != 2 {
		t.Errorf("%d times are told that do not fit the defaults, want 2", told)
	}
}

// A document for a profile adds to an instance and to a configuration: what belongs together may be
// in two documents.
func TestSpringProfileAddsToInstances(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		base, prod string
		grows      bool
		wait       time.Duration
	}{
		"a flag in the profile":          {"instances: {x: {waitDuration: 1s}}", "instances: {x: {enableExponentialBackoff: true}}", true, time.Second},
		"a wait in the profile":          {"instances: {x: {waitDuration: 1s, enableExponentialBackoff: true}}", "instances: {x: {waitDuration: 5s}}", true, 5 * time.Second},
		"a base in the other document":   {"configs: {a: {waitDuration: 3s}}, instances: {x: {baseConfig: a}}", "instances: {x: {maxAttempts: 4}}", false, 3 * time.Second},
		"a configuration in the profile": {"configs: {a: {waitDuration: 3s}}, instances: {x: {baseConfig: a}}", "configs: {a: {waitDuration: 4s}}, instances: {x: {maxAttempts: 4}}", false, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "resilience4j: {retry: {" + c.base + "}}\n---\nspring: {config: {activate: {on-profile: prod}}}\nresilience4j: {retry: {" + c.prod + "}}\n"
			b := named(t, imported(t, foreign.Resilience4j, text), "x/prod").Retry.Backoff
			if got := b.Kind == foreign.BackoffExponential; got != c.grows || b.Base != c.wait {
				t.Errorf("grows = %v from %v, want %v from %v", got, b.Base, c.grows, c.wait)
			}
		})
	}
}

// An instance with a wait of its own inherits whether waits are random, not how much.
func TestResilience4jRandomWaits(t *testing.T) {
	t.Parallel()
	const retry = "resilience4j.retry:\n  configs: {default: {waitDuration: 1s, enableRandomizedWait: true, randomizedWaitFactor: 0.2}}\n  instances: {own: {waitDuration: 2s}, inherits: {}}\n"
	result := imported(t, foreign.Resilience4j, retry)
	for name, want := range map[string]float64{"own": 50, "inherits": 20} {
		if got := named(t, result, name).Retry.Backoff.Percent; got != want {
			t.Errorf("%s: waits differ by %v %%, want %v %%", name, got, want)
		}
	}
}

// A rule of Envoy Gateway with an empty list of clients is for all of them.
func TestEnvoyGatewayRateForAll(t *testing.T) {
	t.Parallel()
	for name, selectors := range map[string]string{"none": "", "an empty list": "clientSelectors: [], ", "a null": "clientSelectors: , "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := imported(t, foreign.EnvoyGateway, traffic+"  rateLimit: {local: {rules: [{"+selectors+"limit: {requests: 5, unit: Minute}}]}}\n").Policies[0].RateLimit
			if l.Calls != 5 || l.Per != time.Minute {
				t.Errorf("limit = %v in %v, want 5 in 1m", l.Calls, l.Per)
			}
		})
	}
}

// Envoy Gateway compares the longest wait only with a first one that the file has.
func TestEnvoyGatewayLongestWaitAlone(t *testing.T) {
	t.Parallel()
	p := imported(t, foreign.EnvoyGateway, traffic+"  retry: {perRetry: {backOff: {maxInterval: 10ms}}}\n").Policies[0]
	if got := p.Retry.Backoff.Max; got != 10*time.Millisecond {
		t.Errorf("longest wait = %v, want 10ms", got)
	}
}
