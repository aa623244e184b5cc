// Package foreign reads the retry, timeout and breaker settings of other systems into one neutral
// model, and reports what became of every field of the file.
package foreign
