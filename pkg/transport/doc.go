// Package transport puts the pipeline of package resilience around an
// http.RoundTripper, and does around it what HTTP needs: which statuses and
// errors are transient, which methods may be repeated, how a request body is
// replayed and a losing response drained, what Retry-After asks for, and when
// the body of an answer has told the breaker whether it was one.
//
//	rt, err := transport.New(http.DefaultTransport, transport.DefaultPolicy())
//	// ...
//	client := &http.Client{Transport: rt}
//
// It depends on net/http, package resilience and OpenTelemetry's API only.
package transport
