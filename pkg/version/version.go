// Package version tells which build of Rebound this is.
package version

import (
	"runtime/debug"
	"strings"
)

// String is the module's version, the commit where it is known, and the Go
// release: "v1.2.0 3f2a9c1 go1.26.8". A build from a work tree is (devel).
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	parts := []string{info.Main.Version}
	if info.Main.Version == "" {
		parts[0] = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			parts = append(parts, s.Value[:min(len(s.Value), 12)])
		}
	}
	return strings.Join(append(parts, info.GoVersion), " ")
}
