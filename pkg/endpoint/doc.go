// Package endpoint sends requests to the endpoints of one upstream. It finds their addresses,
// chooses one for each attempt, and leaves out an endpoint that fails while others do not.
//
// An endpoint is one machine or pod behind an upstream's name. Package transport uses a [Set] for
// the attempts of its calls: a retry goes to an endpoint that the call has not tried yet. A Set is
// also an http.RoundTripper by itself.
package endpoint
