// Package retryafter reads the Retry-After header of a response, and writes that of a fault.
package retryafter

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Of returns how long a response that arrived at now asks the caller to wait. A date counts
// from the response's own Date, because the upstream's clock may differ from ours.
func Of(resp *http.Response, now time.Time) time.Duration {
	v := resp.Header.Get("Retry-After")
	if v == "" {
		return 0
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		now = date
	}
	return Parse(v, now)
}

// Parse parses a Retry-After header (RFC 9110, 10.2.3), a number of seconds or a date, as
// the time to wait from now. A value that is negative, past or unreadable gives 0. A number that
// does not fit in a Duration gives the longest Duration.
func Parse(v string, now time.Time) time.Duration {
	v = strings.Trim(v, " \t")
	if v == "" {
		return 0
	}
	if seconds, ok := Seconds(v); ok {
		if seconds > math.MaxInt64/int64(time.Second) {
			return math.MaxInt64
		}
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now)) // Sub saturates
	}
	return 0
}

// Seconds parses a number of digits only. A number that is too large gives the largest int64.
func Seconds(v string) (int64, bool) {
	var n int64
	for _, c := range []byte(v) {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// Injected returns the header value of a fault's text: a duration becomes whole seconds, rounded
// up, and "date" an HTTP-date two seconds ahead. Any other text, and a negative duration, stays.
func Injected(text string) string {
	if text == "date" {
		return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat)
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return strconv.FormatFloat(math.Ceil(d.Seconds()), 'f', 0, 64)
	}
	return text
}
