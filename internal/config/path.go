package config

import "strconv"

// Join returns the path of key below path: "policies.default". A key with characters other than
// ASCII letters, digits, '-' and '_' is quoted as Go quotes it, so that paths are unambiguous:
// policies["a.b"].
func Join(path, key string) string {
	switch {
	case !plainKey(key):
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	}
	return path + "." + key
}

// Index returns the path of element i (from 0) of the list at path: "routes[1]".
func Index(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

func plainKey(key string) bool {
	for _, c := range []byte(key) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return key != ""
}

// ancestors returns path and its parents, nearest first, ending with the root "". The list also has
// prefixes that end inside a quoted key; they equal no real path.
func ancestors(path string) []string {
	up := []string{path}
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			up = append(up, path[:i])
		}
	}
	return append(up, "")
}
