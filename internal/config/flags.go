package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ParseFlags parses args, the command line without the program's name. Then it sets every flag that
// args does not contain from its environment variable, if lookupEnv has one, even an empty one:
// --drain-delay is REBOUND_DRAIN_DELAY. A flag on the command line wins even if it repeats the
// default. Afterwards fs.Visit visits the flags that either source set.
//
// All mistakes in the environment are returned at once. Arguments that are not flags are an error.
// [flag.ErrHelp] is returned unchanged. ParseFlags never prints or exits, whatever the error
// handling of fs; that is left to the caller. See [Usage].
func ParseFlags(fs *flag.FlagSet, args []string, lookupEnv func(string) (string, bool)) error {
	output, usage := fs.Output(), fs.Usage
	fs.Init(fs.Name(), flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	defer func() { fs.SetOutput(output); fs.Usage = usage }()

	if err := fs.Parse(args); err != nil {
		return rewriteError(fs, err)
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: expected flags only", fs.Arg(0))
	}

	given := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var mistakes []error
	fs.VisitAll(func(f *flag.Flag) {
		text, ok := lookupEnv(envName(f.Name))
		if !ok || given[f.Name] {
			return
		}
		if err := fs.Set(f.Name, text); err != nil {
			mistakes = append(mistakes, valueError(envName(f.Name), f, text, err))
		}
	})
	return errors.Join(mistakes...)
}

// envName returns the environment variable of a flag: "drain-delay" is REBOUND_DRAIN_DELAY.
func envName(flagName string) string {
	return "REBOUND_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// valueError says which value was expected from source, a flag or an environment variable. The flag
// package only says "parse error" for its own types.
func valueError(source string, f *flag.Flag, text string, err error) error {
	expected := ""
	if g, ok := f.Value.(flag.Getter); ok {
		switch g.Get().(type) {
		case bool:
			expected = "true or false"
		case int, int64:
			expected = "an integer"
		case uint, uint64:
			expected = "an integer from 0"
		case float64:
			expected = "a number"
		case time.Duration:
			expected = "a duration such as 250ms"
		}
	}
	if expected == "" {
		return fmt.Errorf("%s: %w", source, err)
	}
	if strings.Contains(err.Error(), "out of range") {
		expected += " within range"
	}
	return fmt.Errorf("%s: expected %s, got %q", source, expected, clip(text))
}

// rewriteError rewrites an error of the flag package in this package's style: with two dashes and
// the expected value. The flag package only offers text to match; an unknown message is returned
// unchanged.
func rewriteError(fs *flag.FlagSet, err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var known []string
		fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
		if near := Nearest(name, known); near != "" {
			return fmt.Errorf("unknown flag --%s, did you mean --%s?", name, near)
		}
		return fmt.Errorf("unknown flag --%s", name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return fmt.Errorf("--%s: expected a value, got nothing", name)
	}
	invalid := regexp.MustCompile(`(?s)^invalid (?:boolean )?value (".*") for (?:flag )?-([^ :]+): (.*)$`)
	if m := invalid.FindStringSubmatch(text); m != nil {
		if f := fs.Lookup(m[2]); f != nil {
			value, _ := strconv.Unquote(m[1])
			return valueError("--"+f.Name, f, value, errors.New(m[3]))
		}
	}
	return err
}

// Usage prints one line for each flag of fs: the named ones in the given order, then all others by
// name, so that no help leaves one out:
//
//	--listen ADDR         where calls come in (default :8080) [REBOUND_LISTEN]
//
// The value's name is the back-quoted word in the flag's usage text, as for [flag.UnquoteUsage].
// Names that fs does not have are ignored.
func Usage(w io.Writer, fs *flag.FlagSet, names ...string) {
	var all []string
	left := make(map[string]string)
	width := 0
	fs.VisitAll(func(f *flag.Flag) {
		all = append(all, f.Name)
		left[f.Name] = "--" + f.Name
		if value, _ := flag.UnquoteUsage(f); value != "" {
			left[f.Name] += " " + value
		}
		width = max(width, utf8.RuneCountInString(left[f.Name]))
	})
	rest := slices.DeleteFunc(all, func(name string) bool { return slices.Contains(names, name) })
	for _, name := range slices.Concat(names, rest) {
		f := fs.Lookup(name)
		if f == nil {
			continue
		}
		_, usage := flag.UnquoteUsage(f)
		if f.DefValue != "" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(w, "  %-*s  %s [%s]\n", width, left[name], usage, envName(name))
	}
}
