// Package config reads and prints configuration, strictly and as layers.
//
// A setting has up to four sources: a default in Go, the file, the environment and the command line, in
// rising order. A layer wins by being present, never by differing from a default. [Decode] lays a document
// over the values a struct already has, and [ParseFlags] lays the environment under the command line.
//
// A document is one YAML mapping (JSON is a subset of YAML). Whatever the program would not use as it is
// written is a mistake: an unknown or repeated key, a value of another type, nothing where something is
// expected, a second document. All mistakes are reported at once, each with file, line, column and path, so
// that a file is corrected in one pass. What is configured is described by the Go types it decodes into;
// their tags, SetDefaults and Validate methods are the only schema there is.
package config
