package foreign

import "slices"

// Leaves returns the number of values in a file that have no values below them, or an error if the
// file cannot be parsed.
func Leaves(system System, name string, data []byte) (int, error) {
	all := dialects()
	i := slices.IndexFunc(all, func(d dialect) bool { return d.system == system })
	roots, err := all[i].parse(name, data)
	n := 0
	for _, root := range roots {
		root.leaves(func(*node) { n++ })
	}
	return n, err
}
