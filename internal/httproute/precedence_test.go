package httproute_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/httproute"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

// rules returns a file of one rule for each match, which sends its requests to a, b, c and so on.
func rules(matches ...string) string {
	var file strings.Builder
	file.WriteString(head)
	for i, match := range matches {
		fmt.Fprintf(&file, "    - {matches: [{%s}], backendRefs: [{name: %c, port: 80}]}\n", match, 'a'+i)
	}
	return file.String()
}

// route returns a file of an HTTPRoute with all requests to the Service of its name.
func route(metadata, to string) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {%s}\nspec: {rules: [{backendRefs: [{name: %s, port: 80}]}]}\n", metadata, to)
}

// upstreamName answers with the name of the upstream that a request is for.
type upstreamName struct{}

func (upstreamName) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Upstream": {r.URL.Hostname()}}, Body: io.NopCloser(strings.NewReader("")),
	}, nil
}

// imported returns a gateway with the routes of a file, and what was noted.
func imported(t *testing.T, file string) (http.Handler, []httproute.Note) {
	t.Helper()
	c, notes, err := httproute.Config("f.yaml", []byte(file))
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	g, err := gateway.New(c, gateway.Options{Next: upstreamName{}})
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	t.Cleanup(g.Close)
	return g, notes
}

// taker returns the upstream that gets a request, such as "GET /a", or "none".
func taker(g http.Handler, request string) string {
	method, url, _ := strings.Cut(request, " ")
	if strings.HasPrefix(url, "/") {
		url = "http://any.example" + url
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest(method, url, nil))
	if to := w.Header().Get("Upstream"); to != "" {
		return to
	}
	return "none"
}

// A request goes to the match that the Gateway API puts first, wherever it is in the file.
func TestPrecedence(t *testing.T) {
	const created = "creationTimestamp: '2026-01-0%dT00:00:00Z'"
	for name, tc := range map[string]struct {
		file string
		want map[string]string // upstreams by request
	}{
		"an exact path before a method": {
			rules("method: GET, path: {value: /x}", "path: {type: Exact, value: /x}"),
			map[string]string{"GET /x": "b", "POST /x": "b", "GET /x/y": "a", "POST /x/y": "none"},
		},
		"a longer prefix before a method": {
			rules("method: GET", "path: {value: /a}"),
			map[string]string{"GET /": "a", "GET /b": "a", "GET /a": "b", "POST /a/b": "b", "DELETE /a/": "b", "POST /b": "none"},
		},
		"a method before none": {
			rules("path: {value: /a}", "method: POST, path: {value: /a}"),
			map[string]string{"GET /a": "a", "POST /a": "b", "POST /a/x": "b"},
		},
		"HEAD is not GET": {
			rules("method: GET, path: {value: /a}", "path: {value: /a}"),
			map[string]string{"GET /a": "a", "HEAD /a": "b", "POST /a": "b", "HEAD /a/b": "b"},
		},
		"nested prefixes of methods": {
			rules("method: GET", "method: POST, path: {value: /a}", "path: {value: /a/b}", "method: PUT, path: {value: /a/b/c}"),
			map[string]string{
				"GET /a": "a", "POST /a": "b", "POST /a/x": "b", "PUT /a": "none", "GET /a/b": "c", "POST /a/b": "c", "PUT /a/b/c": "d",
				"GET /a/b/c": "c", "POST /a/b/c/d": "c", "GET /ab": "a",
			},
		},
		"elements, not letters": {
			rules("path: {value: /a}", "path: {value: /ab}", "path: {value: /}"),
			map[string]string{"GET /a/b": "a", "GET /ab": "b", "GET /abc": "c"},
		},
		"with and without a slash": {
			rules("path: {type: Exact, value: /a/}", "path: {value: /a}"),
			map[string]string{"GET /a/": "a", "GET /a": "b", "GET /a/b": "b"},
		},
		"the same match twice":        {rules("path: {value: /a}", "path: {value: /a}"), map[string]string{"GET /a": "a"}},
		"an older HTTPRoute":          {route("name: a, "+fmt.Sprintf(created, 2), "a") + "---\n" + route("name: b, "+fmt.Sprintf(created, 1), "b"), map[string]string{"GET /": "b"}},
		"one that exists":             {route("name: a", "a") + "---\n" + route("name: b, "+fmt.Sprintf(created, 1), "b"), map[string]string{"GET /": "b"}},
		"the first by name":           {route("name: b", "b") + "---\n" + route("name: a", "a"), map[string]string{"GET /": "a"}},
		"namespaces before names":     {route("namespace: y, name: a", "b") + "---\n" + route("namespace: x, name: b", "a"), map[string]string{"GET /": "a.x"}},
		"a host before a longer path": {strings.Replace(rules("path: {value: /}"), "spec:", "spec:\n  hostnames: [one.example]", 1) + "---\n" + strings.Replace(rules("path: {value: /a/b}"), "name: a,", "name: b,", 1), map[string]string{"GET http://one.example/a/b": "a", "GET http://two.example/a/b": "b"}},
		"the same paths of two hosts": {
			strings.Replace(rules("method: GET", "path: {value: /a}"), "spec:", "spec:\n  hostnames: [one.example, two.example]", 1),
			map[string]string{"GET http://one.example/a": "b", "GET http://two.example/b": "a", "GET http://two.example/a": "b", "GET /a": "none"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := imported(t, tc.file)
			for request, want := range tc.want {
				if got := taker(g, request); got != want {
					t.Errorf("%s goes to %s, want %s", request, got, want)
				}
			}
		})
	}
}

// What patterns cannot say is noted.
func TestPrecedenceNotes(t *testing.T) {
	for name, tc := range map[string]struct {
		file, want string
	}{
		"methods of no name":  {rules("method: POST", "path: {value: /a}"), "rules[1].matches[0]: carried over for the methods of the Gateway API (GET, HEAD"},
		"HEAD above GET":      {rules("method: HEAD", "method: GET, path: {value: /a}"), "rules[0].matches[0]: HEAD of / is not carried over, and goes with GET to no route"},
		"HEAD beside GET":     {rules("method: GET", "path: {value: /}", "method: GET, path: {value: /a}"), "rules[1].matches[0]: HEAD of / is not carried over, and goes with GET to route shop-0"},
		"a match without any": {rules("method: GET, path: {type: Exact, value: /a}", "method: GET, path: {type: Exact, value: /a}"), "rules[1].matches[0]: /a belongs to route shop-0 already"},
		"no such method":      {rules("path: {value: /}", "method: get"), `rules[1].matches[0].method: the match is not carried over: the method "get" is none`},
	} {
		t.Run(name, func(t *testing.T) {
			_, notes := imported(t, tc.file)
			if !slices.ContainsFunc(notes, func(n httproute.Note) bool { return strings.Contains(n.String(), tc.want) }) {
				t.Errorf("got notes %v, want one with %q", notes, tc.want)
			}
		})
	}
}

// simple is a match of the test below.
type simple struct {
	method, path string
	exact        bool
}

func (m simple) takes(method, path string) bool {
	if m.method != "" && m.method != method {
		return false
	}
	prefix := strings.TrimSuffix(m.path, "/")
	return path == m.path && m.exact || !m.exact && (path == prefix || strings.HasPrefix(path, prefix+"/"))
}

// goesBefore compares two matches by the words of the Gateway API.
func (m simple) goesBefore(o simple) bool {
	if m.exact != o.exact {
		return m.exact
	}
	if a, b := len(strings.TrimSuffix(m.path, "/")), len(strings.TrimSuffix(o.path, "/")); !m.exact && a != b {
		return a > b
	}
	return m.method != "" && o.method == ""
}

// Random files send each request where the Gateway API does. The exceptions are noted: HEAD may go
// with GET, and a method that the Gateway API does not know may go elsewhere.
func TestPrecedenceOfRandomFiles(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	requests := []string{"/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b"}
	for range 300 {
		var matches []simple
		var lines []string
		for range 1 + random.IntN(6) {
			m := simple{pick("", "", "GET", "HEAD", "POST", "PUT"), pick("/", "/a", "/a/", "/a/b", "/a/b/c", "/b"), random.IntN(3) == 0}
			matches = append(matches, m)
			line := "path: {type: PathPrefix, value: " + m.path + "}"
			if m.exact {
				line = "path: {type: Exact, value: " + m.path + "}"
			}
			if m.method != "" {
				line += ", method: " + m.method
			}
			lines = append(lines, line)
		}
		reference := func(method, path string) string {
			best := -1
			for i, m := range matches {
				if m.takes(method, path) && (best < 0 || m.goesBefore(matches[best])) {
					best = i
				}
			}
			if best < 0 {
				return "none"
			}
			return string(rune('a' + best))
		}
		g, notes := imported(t, rules(lines...))
		noted := func(text string) bool {
			return slices.ContainsFunc(notes, func(n httproute.Note) bool { return strings.Contains(n.String(), text) })
		}
		for _, path := range requests {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "PURGE"} {
				got, want := taker(g, method+" "+path), reference(method, path)
				switch {
				case got == want:
				case method == "HEAD" && got == reference("GET", path) && (want == "none" || noted("HEAD of ")):
				case method == "HEAD" && got == "none" && noted("goes with GET to no route"):
				case method == "PURGE" && noted("other methods take"):
				default:
					t.Errorf("%s %s goes to %s, want %s, of\n%s\nnotes %v", method, path, got, want, strings.Join(lines, "\n"), notes)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}
