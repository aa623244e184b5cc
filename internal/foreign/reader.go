package foreign

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// reader reads values out of a file, collects the mistakes, and notes what became of each value.
type reader struct {
	file     string
	errs     mistake.List
	report   Report
	defaults Report
	noted    map[Entry]bool // the defaults
	// idle are values without effect, unless another policy uses the same value.
	idle []idleValue
	// shared has the names of Kubernetes objects that several namespaces have.
	shared map[string]bool
	// lone takes a value for a list of one, as protocol buffers do.
	lone bool
	// fold makes keys equal that the other system takes for the same, such as maxAttempts and
	// max-attempts. Nil compares them as they are.
	fold func(string) string
}

type idleValue struct {
	node     *node
	sentence string
}

// action reads one value.
type action func(r *reader, n *node)

// fields are the keys that a mapping may have.
type fields map[string]action

func (r *reader) place(n *node) Place {
	return Place{File: r.file, Line: n.line, Column: n.column, Path: n.path}
}

// fail reports a mistake in the value of n.
func (r *reader) fail(n *node, format string, args ...any) {
	r.failAt(n.line, n.column, n.path, format, args...)
}

func (r *reader) failAt(line, column int, path, format string, args ...any) {
	if len(r.errs) >= maxMistakes {
		return
	}
	r.errs = append(r.errs, &mistake.Mistake{File: r.file, Line: line, Column: column, Path: path, Message: fmt.Sprintf(format, args...)})
}

// mark adds an entry for the values at and below n that have none yet.
func (r *reader) mark(n *node, kind Kind, sentence string) {
	count := 0
	n.leaves(func(leaf *node) {
		if !leaf.accounted {
			leaf.accounted = true
			count++
		}
	})
	if n.note != "" && kind == Carried {
		kind, sentence = Approximated, n.note
	}
	if count > 0 {
		r.report = append(r.report, Entry{Place: r.place(n), Kind: kind, Sentence: sentence, Fields: count})
	}
}

// byDefault notes a default that applies because the file leaves a field out of n. An empty
// sentence says nothing.
func (r *reader) byDefault(n *node, sentence string) {
	r.note(Entry{Place: r.place(n), Kind: Default, Sentence: sentence})
}

// absent notes that a default applies because an object is not in the file.
func (r *reader) absent(n *node, sentence string) {
	r.note(Entry{Place: r.place(n), Kind: Default, Sentence: sentence, Absent: true})
}

func (r *reader) note(e Entry) {
	if e.Sentence != "" && !r.noted[e] {
		if r.noted == nil {
			r.noted = map[Entry]bool{}
		}
		r.noted[e] = true
		r.defaults = append(r.defaults, e)
	}
}

// result returns the report, or the mistakes. What no action has read is dropped, so that nothing
// is lost without a word.
func (r *reader) result(roots []*node) (Report, error) {
	if len(r.errs) > 0 {
		seen := map[string]bool{} // a value that is read for several policies is wrong once
		r.errs = slices.DeleteFunc(r.errs, func(m *mistake.Mistake) bool {
			again := seen[m.Error()]
			seen[m.Error()] = true
			return again
		})
		slices.SortStableFunc(r.errs, func(a, b *mistake.Mistake) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, r.errs.Err()
	}
	for _, idle := range r.idle {
		r.mark(idle.node, Dropped, idle.sentence)
	}
	for _, root := range roots {
		root.leaves(func(leaf *node) { r.mark(leaf, Dropped, "is not read") })
	}
	slices.SortStableFunc(r.report, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return append(r.report, r.defaults...), nil
}

// object reads a mapping that may have the keys of f only.
func (r *reader) object(n *node, f fields) {
	switch {
	case n.null:
		r.mark(n, Dropped, "is empty")
		return
	case n.shape != mapping:
		r.fail(n, "expected a mapping, got %s", n.describe())
		return
	case len(n.items) == 0:
		r.mark(n, Carried, "")
		return
	}
	lines := map[string]int{}
	for _, item := range n.items {
		name, known := r.find(f, item.key)
		line, again := lines[name]
		switch {
		case !known:
			r.unknown(item, f)
		case again: // in another spelling
			r.failAt(item.keyLine, item.keyColumn, item.path, "the field is already given on line %d", line)
		case item.null:
			r.mark(item, Dropped, "is empty")
		default:
			f[name](r, item)
		}
		lines[name] = item.keyLine
	}
}

// find returns the field that a key means.
func (r *reader) find(f fields, key string) (name string, known bool) {
	if _, known := f[key]; known || r.fold == nil {
		return key, known
	}
	for name := range f {
		if r.fold(name) == r.fold(key) {
			return name, true
		}
	}
	return "", false
}

// maxMistakes is how many mistakes are collected. A list of mistakes prints fewer.
const maxMistakes = 1000

// unknown reports a key that f does not have.
func (r *reader) unknown(n *node, f fields) {
	if len(r.errs) >= maxMistakes {
		return
	}
	known := slices.Sorted(maps.Keys(f))
	message := "unknown field"
	if near := meant(n.key, known); near != "" {
		message += fmt.Sprintf(", did you mean %q?", near)
	} else if len(known) <= 12 {
		message += "; known here: " + strings.Join(known, ", ")
	}
	r.failAt(n.keyLine, n.keyColumn, n.path, "%s", message)
}

// children reads each value of a list, or of a mapping with any keys.
func (r *reader) children(n *node, want shape, do action) {
	switch {
	case n.null:
		r.mark(n, Dropped, "is empty")
	case n.shape != want && want == list:
		r.fail(n, "expected a list, got %s", n.describe())
	case n.shape != want:
		r.fail(n, "expected a mapping, got %s", n.describe())
	case len(n.items) == 0:
		r.mark(n, Carried, "")
	}
	if n.shape != want {
		return
	}
	for _, item := range n.items {
		do(r, item)
	}
}

func (r *reader) list(n *node, do action) {
	if r.lone && n.shape != list && !n.null {
		do(r, n)
		return
	}
	r.children(n, list, do)
}

func (r *reader) byName(n *node, do action) { r.children(n, mapping, do) }

// ignore notes that a value says nothing about failures.
func ignore(r *reader, n *node) { r.mark(n, Unrelated, "") }

// ignoring returns f with more keys that say nothing about failures.
func (f fields) ignoring(keys ...string) fields {
	for _, key := range keys {
		if f[key] == nil {
			f[key] = ignore
		}
	}
	return f
}

// dropping returns f with more keys that cannot be carried over for the same reason.
func (f fields) dropping(sentence string, keys ...string) fields {
	for _, key := range keys {
		f[key] = drop(sentence)
	}
	return f
}

// drop notes that a value is not carried over, and why.
func drop(sentence string) action {
	return func(r *reader, n *node) { r.mark(n, Dropped, sentence) }
}

// parser reads a value, or reports a mistake and returns false.
type parser[T any] func(r *reader, n *node) (T, bool)

// set reads a value into dst, a field of p whose name is field.
func set[T any](p *Policy, field string, dst *T, parse parser[T]) action {
	return func(r *reader, n *node) {
		if v, ok := parse(r, n); ok {
			*dst = v
			p.setBy(r, field, n)
			r.mark(n, Carried, "")
		}
	}
}

// keep reads a value into dst, which is no field of a policy. The caller notes its place.
func keep[T any](dst *T, parse parser[T]) action {
	return func(r *reader, n *node) {
		if v, ok := parse(r, n); ok {
			*dst = v
			r.mark(n, Carried, "")
		}
	}
}

// check reads a value that has no effect.
func check[T any](parse parser[T]) action {
	return func(r *reader, n *node) { parse(r, n) }
}

// onlyWith is do if another field is on. Otherwise the value is checked, and dropped if no other
// policy has it too.
func onlyWith[T any](n *node, flag string, do action, parse parser[T]) action {
	if on := field(n, flag); on != nil && strings.EqualFold(on.value(), "true") {
		return do
	}
	return func(r *reader, n *node) {
		if _, ok := parse(r, n); ok {
			r.idle = append(r.idle, idleValue{n, "has no effect without " + flag + ": true"})
		}
	}
}

// approx is do, but what it carries over is only close. The sentence says what is different.
func approx(do action, sentence string) action {
	return func(r *reader, n *node) {
		first := len(r.report)
		do(r, n)
		r.approximate(first, sentence)
	}
}

// approximate turns carried entries from number first on into approximated ones.
func (r *reader) approximate(first int, sentence string) {
	for i := range r.report[first:] {
		if e := &r.report[first+i]; e.Kind == Carried {
			e.Kind, e.Sentence = Approximated, sentence
		}
	}
}

// setBy notes that n sets a field of p.
func (p *Policy) setBy(r *reader, field string, n *node) {
	if p.From == nil {
		p.From = Sources{}
	}
	p.From[field] = append(slices.Clip(p.From[field]), r.place(n))
}

// setFrom notes that a field of p, with all below it, comes from the same places as in other.
func (p *Policy) setFrom(other *Policy, field string) {
	below := func(name string) bool { return name == field || strings.HasPrefix(name, field+".") }
	from := Sources{} // p may be a copy of a policy whose map it must not change
	for name, place := range p.From {
		if !below(name) {
			from[name] = place
		}
	}
	for name, place := range other.From {
		if below(name) {
			from[name] = place
		}
	}
	p.From = from
}

// missing returns those of the defaults, each "key: value", whose key n does not have, in one line.
func missing(n *node, defaults ...string) string {
	var left []string
	for _, d := range defaults {
		if key, _, _ := strings.Cut(d, ":"); anyCase(n, key) == nil {
			left = append(left, d)
		}
	}
	return strings.Join(left, ", ")
}

// meant returns the one of the known words that a word is probably meant to be, or "": with few
// mistakes, or with another ending, such as maxRetry for maxRetries.
func meant(word string, known []string) string {
	near := config.Nearest(word, known)
	if near != "" && config.Distance(strings.ToLower(word), strings.ToLower(near)) <= 3 {
		return near
	}
	near, longest := "", max(3, len(word)-3)
	for _, k := range known {
		same := 0
		for same < min(len(word), len(k)) && word[same] == k[same] {
			same++
		}
		if same > longest {
			near, longest = k, same
		}
	}
	return near
}
