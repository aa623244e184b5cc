package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ParseFlags parses args, the command line without the program's name, and then gives every flag that was
// not on it the value of its environment variable, if lookupEnv has one (even an empty one): --drain-delay is
// REBOUND_DRAIN_DELAY. What counts is that a flag was given, not whether it differs from its default.
// Afterwards fs.Visit visits the flags that were set by either.
//
// All mistakes of the environment are returned at once; arguments that are not flags are an error.
// [flag.ErrHelp] is returned as it is. ParseFlags prints nothing and does not end the program, whatever the
// error handling of fs: what to print, and where, is the caller's decision. See [Usage].
func ParseFlags(fs *flag.FlagSet, args []string, lookupEnv func(string) (string, bool)) error {
	output, usage := fs.Output(), fs.Usage
	fs.Init(fs.Name(), flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	defer func() { fs.SetOutput(output); fs.Usage = usage }()

	if err := fs.Parse(args); err != nil {
		return readable(fs, err)
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
			mistakes = append(mistakes, mismatch(envName(f.Name), f, text, err))
		}
	})
	return errors.Join(mistakes...)
}

// envName returns the environment variable of a flag: "drain-delay" is REBOUND_DRAIN_DELAY.
func envName(flagName string) string {
	return "REBOUND_" + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// mismatch says what was expected of a flag, from wherever its value came. The flag package itself says
// "parse error" for every type of its own.
func mismatch(origin string, f *flag.Flag, text string, err error) error {
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
		return fmt.Errorf("%s: %w", origin, err)
	}
	if strings.Contains(err.Error(), "out of range") {
		expected += " that is not so large"
	}
	return fmt.Errorf("%s: expected %s, got %q", origin, expected, clip(text))
}

// readable says the flag package's errors the way everything else is said here: with two dashes, and with
// what was expected. The package offers its errors as text only; one that is not recognised stays as it is.
func readable(fs *flag.FlagSet, err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var known []string
		fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
		if near := nearest(name, known); near != "" {
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
			return mismatch("--"+f.Name, f, value, errors.New(m[3]))
		}
	}
	return err
}

// Usage prints one line for each flag of fs that is named, in that order, or for all by name if none is:
//
//	--listen ADDR         where calls come in (default :8080) [REBOUND_LISTEN]
//
// The word for the value is the one in back quotes in the flag's usage text, as [flag.UnquoteUsage] finds
// it. The texts are aligned over the whole of fs, so that several calls can print groups that line up.
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
	if len(names) == 0 {
		names = all
	}
	for _, name := range names {
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
