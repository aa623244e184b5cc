package transport

// ParseRetryAfter is for the fuzz test.
var ParseRetryAfter = parseRetryAfter

// MaxUpstreams is how many origins a transport remembers.
const MaxUpstreams = maxUpstreams
