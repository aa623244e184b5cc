package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/files"
)

// The flags set the timeouts of --upstream's policy.
func TestA13TimeoutFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string // the two lines that --check prints
	}{
		"neither":                      {nil, nil, "timeout: 5s attemptTimeout: 1.5s"},
		"both":                         {[]string{"--timeout", "30s", "--attempt-timeout", "10s"}, nil, "timeout: 30s attemptTimeout: 10s"},
		"a longer call":                {[]string{"--timeout", "30s"}, nil, "timeout: 30s attemptTimeout: 1.5s"},
		"a shorter call":               {[]string{"--timeout", "800ms"}, nil, "timeout: 800ms attemptTimeout: 800ms"},
		"a longer attempt":             {[]string{"--attempt-timeout", "5s"}, nil, "timeout: 5s attemptTimeout: 5s"},
		"by the environment":           {nil, map[string]string{"REBOUND_TIMEOUT": "20s", "REBOUND_ATTEMPT_TIMEOUT": "2s"}, "timeout: 20s attemptTimeout: 2s"},
		"a flag above the environment": {[]string{"--timeout", "1s"}, map[string]string{"REBOUND_TIMEOUT": "20s"}, "timeout: 1s attemptTimeout: 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := execute(t.Context(), append([]string{"--check", "--upstream", "http://x"}, tc.args...), func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok }, &stdout, &stderr)
			var got []string
			for line := range strings.Lines(stdout.String()) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "timeout:") || strings.HasPrefix(line, "attemptTimeout:") {
					got = append(got, line)
				}
			}
			if code != 0 || strings.Join(got, " ") != tc.want {
				t.Errorf("got exit code %d, %q, stderr %q, want 0 and %q", code, got, stderr.String(), tc.want)
			}
		})
	}
}

func TestA13TimeoutMistakes(t *testing.T) {
	file := files.Temp(t, "rebound.yaml", "routes: [{name: a, match: /, upstream: \"http://x\"}]\n")
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"with a file":                   {[]string{"--config", file, "--timeout", "1s"}, nil, "client: --timeout: needs --upstream; in a file each policy has its timeout\n"},
		"an attempt's with a file":      {[]string{"--config", file, "--attempt-timeout", "1s"}, nil, "client: --attempt-timeout: needs --upstream; in a file each policy has its attemptTimeout\n"},
		"with a file, the default":      {[]string{"--config", file, "--timeout", "5s"}, nil, "client: --timeout: needs --upstream"},
		"with a file, environment":      {[]string{"--config", file}, map[string]string{"REBOUND_TIMEOUT": "1s"}, "client: --timeout: needs --upstream"},
		"alone":                         {[]string{"--timeout", "1s"}, nil, "client: --timeout: needs --upstream"},
		"zero":                          {[]string{"--upstream", "http://x", "--timeout", "0s"}, nil, "client: --timeout: must be above 0, got 0s\n"},
		"negative":                      {[]string{"--upstream", "http://x", "--timeout", "-1s"}, nil, "client: --timeout: must be above 0, got -1s\n"},
		"an attempt's zero":             {[]string{"--upstream", "http://x", "--attempt-timeout", "0s"}, nil, "client: --attempt-timeout: must be above 0, got 0s\n"},
		"an attempt longer than a call": {[]string{"--upstream", "http://x", "--timeout", "1s", "--attempt-timeout", "2s"}, nil, "client: --attempt-timeout: must be at most --timeout (1s), got 2s\n"},
		"longer than the default":       {[]string{"--upstream", "http://x", "--attempt-timeout", "10s"}, nil, "client: --attempt-timeout: must be at most --timeout (5s), got 10s\n"},
		"no duration":                   {[]string{"--upstream", "http://x", "--timeout", "5"}, nil, `client: --timeout: expected a duration such as 250ms, got "5"`},
		"D5: a level of other tools":    {[]string{"--upstream", "http://x", "--log-level", "WARNING"}, nil, `client: --log-level: must be debug, info, warn or error, got "WARNING"`},
		"D5: by the environment":        {[]string{"--upstream", "http://x"}, map[string]string{"REBOUND_LOG_LEVEL": "WARNING"}, `client: REBOUND_LOG_LEVEL: must be debug, info, warn or error, got "WARNING"`},
		"D5: an upstream of a template": {[]string{"--upstream", "http://$(HOST):5000", "--check"}, nil, `the host must be a name`},
		"D5: a list of upstreams":       {[]string{"--upstream", "http://a,b:5000"}, nil, `the host must be a name`},
		"D5: a socket":                  {[]string{"--upstream", "http://unix:/run/x.sock"}, nil, `there is no port after the colon`},
		"D5: faults of a template":      {[]string{"--upstream", "http://x", "--faults", "http://$(HOST):5001"}, nil, "client: --faults: must be a URL such as http://flaky-server:5001"},
		"D5: traces of a template":      {[]string{"--upstream", "http://x", "--traces", "http://$(HOST)/{id}"}, nil, "client: --traces: must be a URL such as http://localhost:16686"},
		"D5: a probe of a template":     {[]string{"probe", "http://$(HOST):8081/readyz"}, nil, "the host must be a name"},
		"a check, and no share":         {[]string{"--upstream", "http://x", "--check"}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"}, `client: OTEL_TRACES_SAMPLER_ARG: must be a number from 0 to 1, got "10%"`},
		"D1: an endpoint without http":  {[]string{"--upstream", "http://x"}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, `client: OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL such as http://otel-collector:4318, got "localhost:4318": the scheme must be http or https`},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			code := execute(t.Context(), tc.args, func(k string) (string, bool) { v, ok := tc.env[k]; return v, ok }, io.Discard, &stderr)
			if code != 2 || !strings.Contains(stderr.String(), tc.want) {
				t.Errorf("got exit code %d, stderr %q, want 2 and %q", code, stderr.String(), tc.want)
			}
		})
	}
}

// The timeouts of the default policy, which surprise users most, are printed at the start.
func TestA13StartUpLines(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- execute(ctx, []string{"--upstream", "http://127.0.0.1:1", "--timeout", "20s", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, noEnv, writer, io.Discard)
		_ = writer.Close()
	}()
	var printed []string
	for lines := bufio.NewScanner(reader); len(printed) < 3 && lines.Scan(); {
		printed = append(printed, lines.Text())
	}
	cancel()
	if code := <-done; code != 0 || len(printed) != 3 || printed[2] != "timeouts  20s a call, 1.5s an attempt (policy default)" {
		t.Errorf("got exit code %d, lines %q, want 0 and three lines that end with the timeouts", code, printed)
	}
}
