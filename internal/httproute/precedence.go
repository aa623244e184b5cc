package httproute

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/pkg/gateway"
)

// candidate is a match of a rule, for one host.
type candidate struct {
	method string   // empty for any
	path   string   // without a slash at its end, if it is a prefix
	exact  bool     // the path is no prefix
	paths  []string // the paths of its patterns

	route gateway.Route // without its pattern
	owner owner
	order int // in the file

	node *yaml.Node
	at   string
}

// owner is what says which of two HTTPRoutes goes first.
type owner struct {
	created time.Time // zero if it is not known
	name    string    // namespace/name
}

// before compares two candidates as the Gateway API does: an exact path goes first, then the
// longest prefix, a match with a method, the older HTTPRoute, the first one by name, and the first
// one in the file.
func (c *candidate) before(o *candidate) int {
	return cmp.Or(
		descending(c.exact, o.exact),
		cmp.Compare(len(o.path), len(c.path)),
		descending(c.method != "", o.method != ""),
		descending(!c.owner.created.IsZero(), !o.owner.created.IsZero()),
		c.owner.created.Compare(o.owner.created),
		cmp.Compare(c.owner.name, o.owner.name),
		cmp.Compare(c.order, o.order),
	)
}

func descending(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// class is the set of paths that one path of a pattern takes from all others.
type class struct {
	path   string
	parent *class // takes these paths if there is no such class
	winner map[string]*candidate
	// split classes have a pattern for each method, because a pattern for any would conflict with a
	// pattern for one method above it.
	split bool
	// gets is true if a GET below this class goes elsewhere, for which there may be a pattern.
	gets bool
}

// covers reports whether a candidate takes the paths of a class.
func (c *candidate) covers(k *class) bool {
	if c.exact {
		return k.path == c.paths[0]
	}
	return k.path == c.path || strings.HasPrefix(k.path, c.path+"/")
}

// under reports whether a class is below another one.
func (k *class) under(o *class) bool {
	return k != o && strings.HasSuffix(o.path, "/") && strings.HasPrefix(k.path, o.path)
}

// anyMethod stands for the methods that no candidate names.
const anyMethod = ""

// methods are those that a match of the Gateway API can name.
func methods() []string {
	return []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch,
	}
}

// chosen is a pattern, without its host, and the candidate that has it.
type chosen struct {
	pattern string
	by      *candidate
}

// resolve returns the patterns that send each request to the candidate that goes first in the
// Gateway API. Patterns of ServeMux have an order of their own. They conflict where it would depend
// on both the method and the path. There, a pattern for any method becomes one for each. What they
// cannot say is noted.
func (m *maker) resolve(all []*candidate) []chosen {
	classes := classesOf(all)
	decide(classes, all)
	var found []chosen
	won := map[*candidate]bool{}
	noted := map[*candidate]bool{} // each once, for all of its paths
	for _, k := range classes {
		heads := m.headAlone(k, noted)
		emit := func(method string) {
			pattern := k.path
			if method != anyMethod {
				pattern = method + " " + k.path
			}
			found = append(found, chosen{pattern, k.winner[method]})
		}
		for _, c := range k.winner {
			won[c] = won[c] || c != nil
		}
		wide := k.winner[anyMethod]
		if wide != nil && k.split && !noted[wide] {
			noted[wide] = true
			m.note(wide.node, wide.at, "carried over for the methods of the Gateway API (%s), because another match is for one method and more paths: other methods take the next route that fits",
				strings.Join(methods(), ", "))
		}
		inherited := func(method string) *candidate {
			if k.parent == nil {
				return nil
			}
			return k.parent.winner[method]
		}
		hasWide := wide != nil && !k.split && wide != inherited(anyMethod)
		if hasWide {
			emit(anyMethod)
		}
		hasGet := false
		for _, method := range methods() {
			w := k.winner[method]
			switch {
			case w == nil, method == http.MethodHead && !heads:
				continue
			case method == http.MethodHead && hasGet:
				if w == k.winner[http.MethodGet] {
					continue
				}
			case hasWide:
				if w == wide {
					continue
				}
			case w == inherited(method):
				continue
			}
			emit(method)
			hasGet = hasGet || method == http.MethodGet
		}
	}
	for _, c := range all {
		if !won[c] {
			m.shadowed(c, classes)
		}
	}
	slices.SortStableFunc(found, func(a, b chosen) int { return a.by.order - b.by.order })
	return found
}

// headAlone reports whether HEAD may have a pattern of its own in a class. Where it may not, it
// goes with GET.
func (m *maker) headAlone(k *class, noted map[*candidate]bool) bool {
	get, head := k.winner[http.MethodGet], k.winner[http.MethodHead]
	if head == nil || head == get {
		return get == nil
	}
	if !k.gets {
		return true
	}
	if !noted[head] {
		noted[head] = true
		where := "no route"
		if get != nil {
			where = "route " + get.route.Name
		}
		m.note(head.node, head.at, "HEAD of %s is not carried over, and goes with GET to %s: a match of GET is for a path below", k.path, where)
	}
	return false
}

// classesOf returns the classes of all paths, each behind its parent.
func classesOf(all []*candidate) []*class {
	var classes []*class
	seen := map[string]bool{}
	for _, c := range all {
		for _, path := range c.paths {
			if !seen[path] {
				seen[path] = true
				classes = append(classes, &class{path: path, winner: map[string]*candidate{}})
			}
		}
	}
	slices.SortStableFunc(classes, func(a, b *class) int { return len(a.path) - len(b.path) })
	for i, k := range classes {
		for _, o := range classes[:i] {
			if k.under(o) {
				k.parent = o // the last one is the longest
			}
		}
	}
	return classes
}

// decide finds the winners of all classes, and which of them must be split.
func decide(classes []*class, all []*candidate) {
	sorted := slices.SortedFunc(slices.Values(all), (*candidate).before)
	for _, k := range classes {
		for _, method := range append([]string{anyMethod}, methods()...) {
			k.winner[method] = nil
			for _, c := range sorted {
				if c.covers(k) && (c.method == anyMethod || c.method == method) {
					k.winner[method] = c
					break
				}
			}
		}
		for p := k.parent; p != nil; p = p.parent {
			p.gets = p.gets || k.winner[http.MethodGet] != k.parent.winner[http.MethodGet]
		}
	}
	for _, k := range classes {
		if p := k.parent; p != nil {
			k.split = p.split || p.byMethod()
		}
	}
}

// byMethod reports whether a class has a pattern for one method.
func (k *class) byMethod() bool {
	for _, method := range methods() {
		w := k.winner[method]
		if w != k.winner[anyMethod] && (method != http.MethodHead || !k.gets) {
			return true
		}
	}
	return false
}

// shadowed notes that other matches take all requests of a candidate.
func (m *maker) shadowed(c *candidate, classes []*class) {
	for _, k := range classes {
		if k.path != c.paths[0] {
			continue
		}
		method := cmp.Or(c.method, http.MethodGet)
		if w := k.winner[method]; w != nil {
			m.note(c.node, c.at, "%s belongs to route %s already, which comes first", k.path, w.route.Name)
		}
		return
	}
}
