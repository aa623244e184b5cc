// Package problem encodes errors for callers, as RFC 9457 problem documents. It is the only place that does,
// so that an error looks the same wherever it comes from, and is never HTML.
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// ContentType is the media type of a problem document.
const ContentType = "application/problem+json"

// Problem is one error as its caller sees it. The zero value is an error of which nothing is known, a 500.
// It is a value: copies may be used concurrently.
type Problem struct {
	// Type is a URI that identifies the kind of problem. Left empty it follows from Reason: "breaker_open"
	// is "/problems/breaker-open", and no reason is "about:blank".
	Type string `json:"type"`

	// Title is the same for every problem of a type. Left empty it follows from Reason too ("Breaker open"),
	// or is the status in words, as RFC 9457 asks for with "about:blank".
	Title string `json:"title"`

	// Status is the HTTP status, 400 to 599. Any other is no error to a caller, and written as 500.
	Status int `json:"status"`

	Detail string `json:"detail"` // what happened to this call, in a sentence

	// Reason is one of the closed set of words that traces, metrics and logs use for the same ending. With
	// it come Route and Upstream, by their names in the configuration, and Attempts, how many were made.
	Reason   string `json:"reason"`
	Route    string `json:"route"`
	Upstream string `json:"upstream"`

	// Attempts is written when there is a Reason: that 0 were made is information then. A negative number
	// is not known, and left out.
	Attempts int `json:"attempts"`

	TraceID string `json:"traceId"` // 32 hexadecimal digits
}

// MarshalJSON encodes p with what Type, Title and Status default to, and without what is empty.
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

// Write answers with p as the whole response. It must be the first thing written to w. Headers that are set
// already stay, so that a Retry-After can be set before; but not those that describe another body.
//
// A write that fails is not reported: the caller it was for is gone.
func Write(w http.ResponseWriter, p Problem) {
	p = p.complete()
	body, _ := json.Marshal(p) // strings and integers always encode
	body = append(body, '\n')

	h := w.Header()
	// A handler may have begun to copy an upstream's response before it failed. A length or an encoding
	// from there would break this body, and a validator would let a cache take it for the resource.
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
