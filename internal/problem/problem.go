// Package problem writes errors to callers as RFC 9457 problem documents, never as HTML. No other
// package does, so that all errors look alike.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// StatusCallerGone is the status of a call whose caller hung up, as in nginx. It only appears in
// logs and metrics. HTTP does not register it.
const StatusCallerGone = 499

// ContentType is the media type of a problem document.
const ContentType = "application/problem+json"

// Problem is one error as its caller sees it. The zero value is an unspecified error with status
// 500. A Problem is a plain value: copies may be used concurrently.
type Problem struct {
	// Type is a URI that identifies the kind of problem. If empty, it follows from Reason:
	// "breaker_open" becomes "/problems/breaker-open", and no reason becomes "about:blank".
	Type string `json:"type"`

	// Title is the same for every problem of a type. If empty, it follows from Reason ("Breaker
	// open"). Without a reason it is the status text, as RFC 9457 asks for with "about:blank".
	Title string `json:"title"`

	// Status is the HTTP status, 400 to 599. Any other value is written as 500.
	Status int `json:"status"`

	Detail string `json:"detail"` // one sentence about this call

	// Reason is the reason that traces, metrics and logs use for the same outcome. Route and
	// Upstream are names from the configuration.
	Reason   string `json:"reason"`
	Route    string `json:"route"`
	Upstream string `json:"upstream"`

	// Attempts is the number of attempts. It is written only with a Reason, and then even if it is
	// 0. A negative number means unknown and is left out.
	Attempts int `json:"attempts"`

	TraceID string `json:"traceId"` // 32 hexadecimal digits
}

// MarshalJSON encodes p with the defaults of Type, Title and Status, and leaves out empty fields.
func (p Problem) MarshalJSON() ([]byte, error) {
	p = p.complete()
	var attempts *int
	if p.Reason != "" && p.Attempts >= 0 {
		attempts = &p.Attempts
	}
	return json.Marshal(struct {
		Type     string `json:"type"`
		Title    string `json:"title"`
		Status   int    `json:"status"`
		Detail   string `json:"detail,omitempty"`
		Reason   string `json:"reason,omitempty"`
		Route    string `json:"route,omitempty"`
		Upstream string `json:"upstream,omitempty"`
		Attempts *int   `json:"attempts,omitempty"`
		TraceID  string `json:"traceId,omitempty"`
	}{p.Type, p.Title, p.Status, p.Detail, p.Reason, p.Route, p.Upstream, attempts, p.TraceID})
}

func (p Problem) complete() Problem {
	if p.Status < 400 || p.Status > 599 {
		p.Status = http.StatusInternalServerError
	}
	if p.Type == "" {
		p.Type = "about:blank"
		if p.Reason != "" {
			p.Type = "/problems/" + strings.ReplaceAll(p.Reason, "_", "-")
		}
	}
	if p.Title == "" && p.Reason != "" {
		p.Title = strings.ToUpper(p.Reason[:1]) + strings.ReplaceAll(p.Reason[1:], "_", " ")
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	if p.Title == "" { // a status without a name, such as 599
		p.Title = "Status " + strconv.Itoa(p.Status)
	}
	return p
}

// Write writes p as the whole response. It must be the first write to w. Headers that are already
// set, such as Retry-After, stay, except those that describe another body.
//
// A failed write is not reported: the caller has gone.
func Write(w http.ResponseWriter, p Problem) {
	p = p.complete()
	body, _ := json.Marshal(p) // strings and integers always encode
	body = append(body, '\n')

	h := w.Header()
	// A handler may fail after it began to copy an upstream's response. That response's length or
	// encoding would break this body, and a cache would take its validator for the resource's.
	for _, name := range []string{
		"Content-Disposition", "Content-Encoding", "Content-Language", "Content-Location", "Content-Range",
		"Accept-Ranges", "Etag", "Last-Modified", "Expires", "Trailer", "Transfer-Encoding",
	} {
		h.Del(name)
	}
	h.Set("Content-Type", ContentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}
