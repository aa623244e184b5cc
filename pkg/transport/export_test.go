package transport

// ParseRetryAfter is what the fuzz test reads headers with.
var ParseRetryAfter = parseRetryAfter

// MaxUpstreams is the number of origins that are remembered.
const MaxUpstreams = maxUpstreams
