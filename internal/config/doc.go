// Package config reads and prints configuration. It is strict and works in layers.
//
// A setting has up to four sources, in rising order: a default in Go, the file, the environment and
// the command line. A source wins if it sets the value, even to the default. [Decode] merges a
// document into an existing struct. [ParseFlags] reads flags from the command line, then from the
// environment.
//
// A document is one YAML mapping (JSON is a subset of YAML). Anything that the program would ignore
// or guess at is a mistake: an unknown or repeated key, a wrong type, a missing value, a second
// document. All mistakes are reported at once, each with file, line, column and path, so that a
// user can fix the file in one pass. The schema is the Go types: their tags, SetDefaults and
// Validate methods.
package config
