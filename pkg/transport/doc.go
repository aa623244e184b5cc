// Package transport puts the pipeline of package resilience around an http.RoundTripper. It adds
// what HTTP needs: which statuses and errors are transient, which methods may be sent again, how a
// request body is replayed, how a discarded response is drained, how Retry-After is read, and how
// the end of a response body counts for the circuit.
//
//	rt, err := transport.New(http.DefaultTransport, transport.DefaultPolicy())
//	// ...
//	client := &http.Client{Transport: rt}
//
// It depends only on net/http, package resilience and OpenTelemetry's API.
package transport
