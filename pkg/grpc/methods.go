package reboundgrpc

import (
	"fmt"
	"strings"

	"github.com/rebound-dev/rebound/internal/mistake"
)

// methods is a set of methods, by patterns in the style of gRPC's service config.
type methods map[string]bool

// add adds patterns to m. The error lists every bad one.
func (m *methods) add(patterns []string) error {
	if *m == nil {
		*m = methods{}
	}
	var bad mistake.List
	for n, p := range patterns {
		path := fmt.Sprintf("idempotent[%d]", n)
		bad.Check(validPattern(p), path, `must be a method such as "/orders.Orders/Get", or "/orders.Orders/*" for all of a service, got %q`, p)
		bad.Check(!(*m)[p], path, "%s is listed twice", p)
		(*m)[p] = true
	}
	return bad.Err()
}

func validPattern(p string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	return ok && p[0] == '/' && validName(service) && (method == "*" || validName(method))
}

// validName reports whether s can be a service's or a method's name: it has visible ASCII
// characters only, and none with a meaning of its own in a pattern or a path.
func validName(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("/*?#%", c) }) < 0
}

// has reports whether a pattern matches a method such as /orders.Orders/Get.
func (m methods) has(method string) bool {
	if len(m) == 0 {
		return false
	}
	return m[method] || m[method[:strings.LastIndexByte(method, '/')+1]+"*"]
}
