package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/pkg/gateway"
)

// Timeouts returns a start-up line for each policy that a route uses, with the time limits of a
// call and of an attempt. These defaults surprise users most.
func Timeouts(c gateway.Config) string {
	var names []string
	for _, r := range c.Routes {
		names = append(names, r.Policy)
	}
	slices.Sort(names)
	var lines strings.Builder
	for _, name := range slices.Compact(names) {
		p := c.Policies[name]
		fmt.Fprintf(&lines, "timeouts  %v a call, %v an attempt (policy %s)\n", p.Timeout, p.AttemptTimeout, name)
	}
	return lines.String()
}
