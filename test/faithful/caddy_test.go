package faithful_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // reads Caddyfiles
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/testkit/rawhttp"
	"github.com/rebound-dev/rebound/internal/testkit/wait"
)

// countingTransport is Caddy's transport, and counts the attempts that found no connection.
type countingTransport struct{ *reverseproxy.HTTPTransport }

var caddyRefused atomic.Int64 //nolint:gochecknoglobals // Caddy makes the transports

// CaddyModule is how Caddy finds the transport.
func (countingTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.counting",
		New: func() caddy.Module { return &countingTransport{new(reverseproxy.HTTPTransport)} },
	}
}

func (c countingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.HTTPTransport.RoundTrip(req)
	if dial := (reverseproxy.DialError{}); errors.As(err, &dial) {
		caddyRefused.Add(1)
	}
	return resp, err
}

// moduleVersion returns the version of a module that this test is built with.
func moduleVersion(path string) func(t *testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		text, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}", path).Output() //nolint:gosec // a module of this test
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		return strings.TrimSpace(strings.TrimPrefix(string(text), "v"))
	}
}

func caddyProxy() thing {
	caddy.RegisterModule(countingTransport{})
	return thing{
		name: "Caddy", version: moduleVersion("github.com/caddyserver/caddy/v2"), cells: caddyCells(),
		start: func(t *testing.T, c cell, u *upstream) (foreign.Policy, peer) {
			s := setup{Address: rawhttp.FreeAddress(t), Servers: u.servers, Lines: c.lines, Timeout: c.timeout(), Dir: t.TempDir()}
			text := render(t, "Caddyfile", s)
			startCaddy(t, text)
			client := newClient()
			wait.Until(t, 10*time.Second, "Caddy to serve", func() bool {
				resp, err := client.Get("http://" + s.Address + "/process")
				if err != nil {
					return false
				}
				return resp.Body.Close() == nil
			})
			caddyRefused.Store(0)
			return imported(t, foreign.Caddy, "Caddyfile", text), peer{
				call: func(method string) bool { return fetch(client, "http://"+s.Address, method) },
				end: func(int) int {
					if err := caddy.Stop(); err != nil {
						t.Error(err)
					}
					return int(caddyRefused.Load())
				},
			}
		},
	}
}

func startCaddy(t *testing.T, text []byte) {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	config = bytes.ReplaceAll(config, []byte(`"protocol":"http"`), []byte(`"protocol":"counting"`))
	var parsed map[string]any
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	parsed["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}}
	if config, err = json.Marshal(parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}
