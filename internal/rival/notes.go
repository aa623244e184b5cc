package rival

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// Notes returns what of the policies has no effect in the simulation of calls with an HTTP method,
// in one sentence each.
func Notes(policies []foreign.Policy, method string) []string {
	var notes []string
	note := func(applies func(foreign.Policy) bool, sentence string) {
		var names []string
		for _, p := range policies {
			if applies(p) {
				names = append(names, p.Name)
			}
		}
		if n := len(names); n > 3 {
			names = append(names[:3], fmt.Sprintf("%d more", n-3))
		}
		if len(names) > 0 {
			notes = append(notes, strings.Join(names, ", ")+": "+sentence)
		}
	}
	note(func(p foreign.Policy) bool { return !p.GRPC && len(p.Retry.On.GRPC) > 0 }, "the retries on statuses of gRPC, because the calls are of HTTP")
	note(func(p foreign.Policy) bool {
		return p.Retry.MaxAttempts != 1 && p.Retry.Methods != nil && !slices.Contains(p.Retry.Methods, method)
	}, "the retries, because the scenario's calls are "+method+", which is not among the retried methods (load.method)")
	note(func(p foreign.Policy) bool { return p.From["ConnectTimeout"] != nil },
		"the time to connect, because connections are made or refused at once")
	note(func(p foreign.Policy) bool { return p.Timeout == 0 }, "a call without end: without a timeout its caller gives up after a minute")
	return notes
}
