package foreign_test

import (
	"testing"

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
		system        foreign.System
		text          string
		first, second string // places
		line          int    // of the first
	}{
		"HAProxy, timeout":  {system: foreign.HAProxy, text: "backend a\n timeout server 1s\n timeout server 2s\n server b c:80\n", line: 2},
		"HAProxy, retries":  {system: foreign.HAProxy, text: "backend a\n retries 1\n retries 2\n server b c:80\n", line: 2},
		"HAProxy, retry-on": {system: foreign.HAProxy, text: "backend a\n retry-on 503\n retry-on 504\n server b c:80\n", line: 2},
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
