package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/pkg/gateway"
)

// Timeouts are the start-up lines about the policies that routes use, each with how long a call and an attempt may
// take: what surprises first about a policy that one has not chosen.
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
