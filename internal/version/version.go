// Package version reports which build of Rebound this is.
package version

import (
	"cmp"
	"runtime/debug"
	"strings"
)

// version is set by the linker in builds without a repository, such as that of deploy/Dockerfile:
// -ldflags "-X github.com/rebound-dev/rebound/internal/version.version=v1.2.0".
var version string

// String returns the module's version, the commit if it is known, and the Go release: "v1.2.0
// 3f2a9c1 go1.26.8". The version of a build from a work tree is (devel), unless the linker set one.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	parts := []string{cmp.Or(version, info.Main.Version, "(devel)")}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			parts = append(parts, s.Value[:min(len(s.Value), 12)])
		}
	}
	return strings.Join(append(parts, info.GoVersion), " ")
}
