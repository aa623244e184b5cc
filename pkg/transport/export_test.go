package transport

import "github.com/rebound-dev/rebound/internal/retryafter"

// ParseRetryAfter is for the fuzz test.
var ParseRetryAfter = retryafter.Parse

// MaxUpstreams is how many origins a transport remembers.
const MaxUpstreams = maxUpstreams
