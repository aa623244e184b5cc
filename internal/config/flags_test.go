package config_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
)

type settings struct {
	listen string
	delay  time.Duration
	seed   int64
	rate   float64
	check  bool
	size   size
}

func flags(s *settings) *flag.FlagSet {
	fs := flag.NewFlagSet("client", flag.ExitOnError)
	fs.StringVar(&s.listen, "listen", ":8080", "`ADDR` to listen on")
	fs.DurationVar(&s.delay, "drain-delay", 0, "how long to keep serving after readiness fails, as a `DURATION`")
	fs.Int64Var(&s.seed, "seed", 1, "`N` to seed the random numbers with")
	fs.Float64Var(&s.rate, "error-rate", 0.3, "share of calls that fail, 0 to 1")
	fs.BoolVar(&s.check, "check", false, "validate, print and exit")
	fs.TextVar(&s.size, "size", size(1024), "`SIZE` of the buffer")
	return fs
}

func TestParseFlags(t *testing.T) {
	byDefault := settings{":8080", 0, 1, 0.3, false, 1024}
	changed := func(change func(*settings)) settings { s := byDefault; change(&s); return s }
	for name, tc := range map[string]struct {
		args string
		env  map[string]string
		want settings
		err  string
	}{
		"defaults":    {"", nil, byDefault, ""},
		"environment": {"", map[string]string{"REBOUND_DRAIN_DELAY": "5s", "REBOUND_CHECK": "true", "REBOUND_SIZE": "2KiB"}, changed(func(s *settings) { s.delay, s.check, s.size = 5*time.Second, true, 2048 }), ""},
		"command_line_over_environment": {
			"--listen :1 --seed=2", map[string]string{"REBOUND_LISTEN": ":2", "REBOUND_SEED": "3", "REBOUND_ERROR_RATE": "0.5"},
			changed(func(s *settings) { s.listen, s.seed, s.rate = ":1", 2, 0.5 }), "",
		},
		// A flag on the command line wins even if it repeats the default.
		"default_given_over_environment":  {"--listen :8080 --check=false", map[string]string{"REBOUND_LISTEN": ":2", "REBOUND_CHECK": "true"}, byDefault, ""},
		"empty_is_present":                {"", map[string]string{"REBOUND_LISTEN": ""}, changed(func(s *settings) { s.listen = "" }), ""},
		"unused_bad_variable":             {"--seed 2", map[string]string{"REBOUND_SEED": "x"}, changed(func(s *settings) { s.seed = 2 }), ""},
		"other_variables":                 {"", map[string]string{"LISTEN": ":2", "REBOUND_DRAIN-DELAY": "1s", "REBOUND_": "x"}, byDefault, ""},
		"one_dash":                        {"-seed 2", nil, changed(func(s *settings) { s.seed = 2 }), ""},
		"bad_variables":                   {"", map[string]string{"REBOUND_SEED": "x", "REBOUND_DRAIN_DELAY": "5", "REBOUND_CHECK": "maybe", "REBOUND_ERROR_RATE": "", "REBOUND_SIZE": "big"}, settings{}, "REBOUND_CHECK: expected true or false, got \"maybe\"\nREBOUND_DRAIN_DELAY: expected a duration such as 250ms, got \"5\"\nREBOUND_ERROR_RATE: expected a number, got \"\"\nREBOUND_SEED: expected an integer, got \"x\"\nREBOUND_SIZE: expected a size such as 64KiB, got \"big\""},
		"variable_out_of_range":           {"", map[string]string{"REBOUND_SEED": "99999999999999999999"}, settings{}, `REBOUND_SEED: expected an integer within range, got "99999999999999999999"`},
		"bad_duration":                    {"--drain-delay 5", nil, settings{}, `--drain-delay: expected a duration such as 250ms, got "5"`},
		"bad_bool":                        {"--check=maybe", nil, settings{}, `--check: expected true or false, got "maybe"`},
		"bad_text":                        {"--size=big", nil, settings{}, `--size: expected a size such as 64KiB, got "big"`},
		"bad_quotes":                      {`--seed="x:`, nil, settings{}, `--seed: expected an integer, got "\"x:"`},
		"no_value":                        {"--seed", nil, settings{}, "--seed: expected a value, got nothing"},
		"unknown":                         {"--lisen :1", nil, settings{}, "unknown flag --lisen, did you mean --listen?"},
		"unknown_and_far":                 {"--zzzzzz", nil, settings{}, "unknown flag --zzzzzz"},
		"bad_syntax":                      {"--=1", nil, settings{}, "bad flag syntax: --=1"},
		"positional":                      {"--seed 2 now", nil, settings{}, `unexpected argument "now": expected flags only`},
		"positional_after_the_terminator": {"-- --seed", nil, settings{}, `unexpected argument "--seed": expected flags only`},
		"help":                            {"--help", nil, settings{}, flag.ErrHelp.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var got settings
			fs := flags(&got)
			var printed strings.Builder
			fs.SetOutput(&printed)
			err := config.ParseFlags(fs, strings.Fields(tc.args), func(name string) (string, bool) {
				v, ok := tc.env[name]
				return v, ok
			})
			if tc.err == "" {
				tc.err = "<nil>"
				if got != tc.want {
					t.Errorf("got %+v, want %+v", got, tc.want)
				}
			}
			if fmt.Sprint(err) != tc.err {
				t.Errorf("got error\n%v\nwant\n%s", err, tc.err)
			}
			if printed.Len() > 0 {
				t.Errorf("printed %q, want nothing", &printed)
			}
			if fs.Output() != io.Writer(&printed) {
				t.Error("got another output of the flag set, want it unchanged")
			}
		})
	}
}

func TestParseFlagsPassesHelpThrough(t *testing.T) {
	err := config.ParseFlags(flags(new(settings)), []string{"-h"}, os.LookupEnv)
	if !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v, want flag.ErrHelp", err)
	}
}

// fs.Visit reports flags from both sources, so that --config and --upstream can exclude each other.
func TestParseFlagsMarksWhatWasSet(t *testing.T) {
	fs := flags(new(settings))
	err := config.ParseFlags(fs, []string{"--seed", "1"}, func(name string) (string, bool) { return ":8080", name == "REBOUND_LISTEN" })
	if err != nil {
		t.Fatal(err)
	}
	var set []string
	fs.Visit(func(f *flag.Flag) { set = append(set, f.Name) })
	if got := strings.Join(set, " "); got != "listen seed" {
		t.Errorf("got %s, want listen seed", got)
	}
}

func TestUsage(t *testing.T) {
	fs := flags(new(settings))
	var all, some strings.Builder
	config.Usage(&all, fs)
	want := `  --check                 validate, print and exit (default false) [REBOUND_CHECK]
  --drain-delay DURATION  how long to keep serving after readiness fails, as a DURATION (default 0s) [REBOUND_DRAIN_DELAY]
  --error-rate float      share of calls that fail, 0 to 1 (default 0.3) [REBOUND_ERROR_RATE]
  --listen ADDR           ADDR to listen on (default :8080) [REBOUND_LISTEN]
  --seed N                N to seed the random numbers with (default 1) [REBOUND_SEED]
  --size SIZE             SIZE of the buffer (default 1KiB) [REBOUND_SIZE]
`
	if all.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &all, want)
	}
	// A flag that nobody named is not left out.
	config.Usage(&some, fs, "seed", "check", "none")
	want = `  --seed N                N to seed the random numbers with (default 1) [REBOUND_SEED]
  --check                 validate, print and exit (default false) [REBOUND_CHECK]
  --drain-delay DURATION  how long to keep serving after readiness fails, as a DURATION (default 0s) [REBOUND_DRAIN_DELAY]
  --error-rate float      share of calls that fail, 0 to 1 (default 0.3) [REBOUND_ERROR_RATE]
  --listen ADDR           ADDR to listen on (default :8080) [REBOUND_LISTEN]
  --size SIZE             SIZE of the buffer (default 1KiB) [REBOUND_SIZE]
`
	if some.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &some, want)
	}
}
