package foreign

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (r *reader) scalar(n *node, what string) bool {
	if n.shape != scalar || n.null || len(n.args) > 0 {
		r.fail(n, "expected %s, got %s", what, n.describe())
		return false
	}
	return true
}

// oneOf accepts some words only.
func oneOf(words ...string) parser[string] {
	what := "one of " + strings.Join(words, ", ")
	return func(r *reader, n *node) (string, bool) {
		if !r.scalar(n, what) {
			return "", false
		}
		if !slices.Contains(words, n.text) {
			r.fail(n, "expected %s, got %s", what, n.describe())
			return "", false
		}
		return n.text, true
	}
}

func boolean(r *reader, n *node) (bool, bool) {
	if !r.scalar(n, "true or false") {
		return false, false
	}
	switch strings.ToLower(n.text) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	r.fail(n, "expected true or false, got %s", n.describe())
	return false, false
}

// whole accepts whole numbers in a range.
func whole(low, high int) parser[int] {
	return func(r *reader, n *node) (int, bool) {
		if !r.scalar(n, "a whole number") {
			return 0, false
		}
		v, err := strconv.Atoi(n.text)
		switch {
		case err != nil:
			r.fail(n, "expected a whole number, got %s", n.describe())
		case v < low || v > high:
			r.fail(n, "must be from %d to %d, got %d", low, high, v)
		default:
			return v, true
		}
		return 0, false
	}
}

// maxWhole is the largest number that a file may have: the systems count in 32 bits.
const maxWhole = math.MaxUint32

// limit accepts a limit. The largest values, which switch a limit off in Envoy, become 0.
func limit(r *reader, n *node) (int, bool) {
	v, ok := whole(0, maxWhole)(r, n)
	if v >= math.MaxInt32 {
		v = 0
	}
	return v, ok
}

// number accepts decimal numbers in a range.
func number(low, high float64) parser[float64] {
	return func(r *reader, n *node) (float64, bool) {
		if !r.scalar(n, "a number") {
			return 0, false
		}
		v, err := strconv.ParseFloat(n.text, 64)
		switch {
		case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
			r.fail(n, "expected a number, got %s", n.describe())
		case v < low || v > high:
			r.fail(n, "must be from %v to %v, got %v", low, high, v)
		default:
			return v, true
		}
		return 0, false
	}
}

// positive is parse for values above 0.
func positive[T float64 | time.Duration](parse parser[T]) parser[T] {
	return func(r *reader, n *node) (T, bool) {
		v, ok := parse(r, n)
		if ok && v <= 0 {
			r.fail(n, "must be above 0, got %v", v)
			return 0, false
		}
		return v, ok
	}
}

// within is parse for durations in a range.
func within(low, high time.Duration, parse parser[time.Duration]) parser[time.Duration] {
	return func(r *reader, n *node) (time.Duration, bool) {
		v, ok := parse(r, n)
		if ok && (v < low || v > high) {
			r.fail(n, "must be from %v to %v, got %v", low, high, v)
			return 0, false
		}
		return v, ok
	}
}

// share accepts a percentage and returns it from 0 to 1.
func share(r *reader, n *node) (float64, bool) {
	v, ok := number(0, 100)(r, n)
	return v / 100, ok
}

// spans accepts the durations that read understands.
func spans(what string, read func(string) (time.Duration, bool)) parser[time.Duration] {
	return func(r *reader, n *node) (time.Duration, bool) {
		if !r.scalar(n, what) {
			return 0, false
		}
		d, ok := read(n.text)
		switch {
		case !ok:
			r.fail(n, "expected %s, got %s", what, n.describe())
		case d < 0:
			r.fail(n, "must be at least 0s, got %v", d)
		default:
			return d, true
		}
		return 0, false
	}
}

// duration accepts durations as Go writes them.
func duration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 250ms", goDuration)(r, n)
}

func goDuration(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	return d, err == nil
}

// protoDuration accepts durations in the JSON form of protocol buffers.
func protoDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration in seconds such as 0.25s", func(s string) (time.Duration, bool) {
		if !protoForm.MatchString(s) {
			return 0, false
		}
		return goDuration(s)
	})(r, n)
}

// gatewayDuration accepts durations in the form of GEP-2257.
func gatewayDuration(r *reader, n *node) (time.Duration, bool) {
	return spans("a duration such as 250ms or 1m30s", func(s string) (time.Duration, bool) {
		if !gatewayForm.MatchString(s) {
			return 0, false
		}
		return goDuration(s)
	})(r, n)
}

var (
	protoForm   = regexp.MustCompile(`^-?[0-9]{1,12}(\.[0-9]{1,9})?s$`)
	gatewayForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	isoForm     = regexp.MustCompile(`^P(?:(\d{1,6})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?$`)
	timeSpan    = regexp.MustCompile(`^(?:(\d{1,5})\.)?([01]?\d|2[0-3]):([0-5]?\d)(?::([0-5]?\d(?:\.\d{1,7})?))?$`)
)

// amount reads a whole number with a unit, such as 30s. A number without a unit is in the unit
// bare, if that is above 0.
func amount(s string, bare time.Duration, known map[string]time.Duration) (time.Duration, bool) {
	return amounts(s, bare, known, 1)
}

// amounts reads up to most numbers with units, each smaller than the one before, such as 1m 30s.
func amounts(s string, bare time.Duration, known map[string]time.Duration, most int) (time.Duration, bool) {
	var total float64
	last := time.Duration(math.MaxInt64)
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimLeft(s, " ") {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
		v, err := strconv.ParseFloat(s[:digits], 64)
		if err != nil || digits > 15 || most == 0 {
			return 0, false
		}
		s = s[digits:]
		letters := len(s) - len(strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyzM"))
		unit, ok := known[s[:letters]]
		if letters == 0 {
			unit, ok = bare, bare > 0
		}
		if !ok || unit >= last {
			return 0, false
		}
		total += v * float64(unit)
		s, last, most = s[letters:], unit, most-1
	}
	if last == math.MaxInt64 || total >= math.MaxInt64 {
		return 0, false
	}
	return time.Duration(total), true
}

// isoDuration reads ISO 8601, such as PT1M30S.
func isoDuration(s string) (time.Duration, bool) {
	m := isoForm.FindStringSubmatch(strings.ToUpper(s))
	if m == nil || len(s) < 3 {
		return 0, false
	}
	return sum(m[1:], 24*time.Hour, time.Hour, time.Minute, time.Second)
}

// sum adds up decimal texts in units. An empty text is 0. ok is false if the sum is too long for a
// Duration.
func sum(texts []string, in ...time.Duration) (d time.Duration, ok bool) {
	var total float64
	for i, text := range texts {
		if text != "" {
			v, _ := strconv.ParseFloat(text, 64) // the form is checked already
			total += v * float64(in[i])
		}
	}
	if total >= math.MaxInt64 {
		return 0, false
	}
	return time.Duration(math.Round(total)), true
}

// conditions reads a list of words with commas into the conditions for a retry. read reads one
// word, or reports the mistake in it and returns false. what describes the list.
func conditions(p *Policy, what string, read func(r *reader, n *node, word string) bool) action {
	return func(r *reader, n *node) {
		if !r.scalar(n, what) {
			return
		}
		for word := range strings.SplitSeq(n.text, ",") {
			if !read(r, n, word) {
				return
			}
		}
		p.setBy(r, "Retry.On", n)
		r.mark(n, Carried, "")
	}
}
