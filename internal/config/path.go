package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Join returns the path of key below path: "policies.default". A key that is not made of ASCII letters,
// digits, '-' and '_' alone is quoted as Go quotes it, so that a path is never ambiguous: policies["a.b"].
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

// ancestors returns path and every path above it, the nearest first, ending with the root "". Between them
// are prefixes that end within a quoted key; they are no paths, and so equal to none.
func ancestors(path string) []string {
	up := []string{path}
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '.' || path[i] == '[' {
			up = append(up, path[:i])
		}
	}
	return append(up, "")
}

// Errorf returns an error about the value at path, for a Validate method to return. The text follows
// [fmt.Errorf] and names what was expected and what was found: "must be at least 1, got 0".
func Errorf(path, format string, args ...any) error {
	return &fieldError{path: path, err: fmt.Errorf(format, args...)}
}

// At places err, the result of validating the part of a document that is at path, within the whole: the
// FieldPath of each error in it is put below path. An error without a FieldPath is about path itself.
// Joined errors stay apart; nil stays nil.
func At(path string, err error) error {
	var placed []error
	for _, leaf := range leaves(err) {
		below, _ := split(leaf)
		placed = append(placed, &fieldError{path: under(path, below), err: leaf})
	}
	if len(placed) == 1 {
		return placed[0]
	}
	return errors.Join(placed...)
}

// fielder is what an error about one value implements. FieldPath is relative to what was validated.
type fielder interface{ FieldPath() string }

type fieldError struct {
	path string
	err  error
}

func (e *fieldError) FieldPath() string { return e.path }
func (e *fieldError) Unwrap() error     { return e.err }
func (e *fieldError) Error() string {
	_, text := split(e.err)
	if e.path == "" {
		return text
	}
	return e.path + ": " + text
}

// leaves returns the single errors of a tree made by errors.Join and its like.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	// Not errors.As: each level of the tree is looked at by itself.
	if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
		var all []error
		for _, e := range many.Unwrap() {
			all = append(all, leaves(e)...)
		}
		return all
	}
	return []error{err}
}

// split returns the path an error is about and its text without that path.
func split(err error) (path, text string) {
	text = err.Error()
	var f fielder
	if !errors.As(err, &f) {
		return "", text
	}
	path = f.FieldPath()
	return path, strings.TrimPrefix(text, path+": ")
}

// under returns the relative path below the path above it.
func under(above, below string) string {
	switch {
	case above == "":
		return below
	case below == "" || strings.HasPrefix(below, "["):
		return above + below
	}
	return above + "." + below
}
