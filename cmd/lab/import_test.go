package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/gateway"
)

const foreignFiles = "../../internal/foreign/testdata"

// executeIn runs the program with text as its standard input.
func executeIn(t *testing.T, text string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), cli.Program{
		Name: "lab", Args: args, LookupEnv: func(string) (string, bool) { return "", false },
		Stdin: strings.NewReader(text), Stdout: &out, Stderr: &errs,
	})
	return code, out.String(), errs.String()
}

// The policies and the report are those of the golden files, from the standard input.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"istio/subsets.yaml", "resilience4j/application.yml", "grpc/retry.json", "nginx/api.conf"} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(foreignFiles, file))
			if err != nil {
				t.Fatal(err)
			}
			code, out, errs := executeIn(t, string(text), "import", "-")
			if code != cli.ExitOK {
				t.Fatalf("got exit code %d, stderr %s", code, errs)
			}
			golden.File(t, filepath.Join("testdata", "import-"+strings.ReplaceAll(file, "/", "-")+".txt"), out+"---\n"+errs)
		})
	}
}

// refusedAs returns the exit code for a file whose golden file says why it is refused.
func refusedAs(golden string) int {
	if strings.Contains(golden, "has no settings of") {
		return exitNothing
	}
	return cli.ExitUsage
}

// The output of every import, with a route and a URL for each upstream, is a configuration.
func TestImportedIsConfiguration(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(foreignFiles + "/*/*")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "or no files")
	}
	for _, file := range files {
		if filepath.Ext(file) == ".golden" {
			continue
		}
		code, out, errs := execute(t, "import", "--from", filepath.Base(filepath.Dir(file)), file)
		if shown, err := os.ReadFile(file + ".golden"); err != nil {
			t.Error(err)
		} else if strings.HasPrefix(string(shown), "refused\n") {
			if want := refusedAs(string(shown)); code != want || out != "" || errs == "" {
				t.Errorf("%s: got exit code %d, stdout %q, stderr %q, want a refusal with %d", file, code, out, errs, want)
			}
			continue
		}
		if code != cli.ExitOK {
			t.Errorf("%s: got exit code %d, stderr %s", file, code, errs)
			continue
		}
		text := "routes: [{name: a, match: /, upstream: \"http://a\"}]\n" + strings.ReplaceAll(out, "\n    endpoints:", "\n    url: http://a\n    endpoints:")
		cfg := gateway.DefaultConfig()
		if err := config.Decode(file, []byte(text), &cfg); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestImportMistakes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: networking.istio.io/v1\nkind: VirtualService\nspec: {http: [{retry: {}}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no file":        {[]string{"import"}, "lab import: expected one FILE, or - for the standard input, got 0\n"},
		"two files":      {[]string{"import", "a", "b"}, "lab import: expected one FILE, or - for the standard input, got 2\n"},
		"missing file":   {[]string{"import", "missing.yaml"}, "lab import: missing.yaml: cannot be read: no such file or directory\n"},
		"unknown system": {[]string{"import", "--from", "squid", file}, "lab import: unknown system \"squid\", expected one of istio, envoy, envoy-gateway, gateway-api, linkerd, dapr, resilience4j, dotnet, grpc, aws, nginx, haproxy, caddy, traefik\n"},
		"no sign":        {[]string{"import", "-"}, "lab import: stdin:1:1: is empty\n"},
		"misspelled":     {[]string{"import", file}, "lab import: " + file + ":3:16: spec.http[0].retry: unknown field, did you mean \"retries\"?\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := executeIn(t, "", c.args...)
			if code != cli.ExitUsage || out != "" || errs != c.want {
				t.Errorf("got exit code %d, stdout %q, stderr %q, want 2, none, %q", code, out, errs, c.want)
			}
		})
	}
}

// A file that names no system gets the reason.
func TestFilesThatNameNoSystem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		file, text, command, want string
		code                      int // 0 means 2
	}{
		"a tab":                {"a.yaml", "spec:\n\thttp: 1\n", "import", "a.yaml:2:1: expected spaces as indentation, got a tab\n", 0},
		"binary":               {"b.yml", "a\xaa", "import", "b.yml:1:2: expected UTF-8 text, got byte 0xaa\n", 0},
		"half of UTF-16":       {"h.yaml", "\xff\xfea", "import", "h.yaml:1:1: expected UTF-8 text, got byte 0xff\n", 0},
		"an empty list":        {"l.yaml", "apiVersion: v1\nkind: List\nitems: []\n", "import", "l.yaml: is a list without objects: kubectl has found none, is the namespace right?\n", exitNothing},
		"simulating no object": {"m.yaml", "apiVersion: v1\nkind: List\nitems: []\n", "simulate", "m.yaml: is a list without objects: kubectl has found none, is the namespace right?\n", exitNothing},
		"other objects":        {"o.yaml", "{apiVersion: v1, kind: Service}\n---\n{apiVersion: v1, kind: List, items: [{apiVersion: apps/v1, kind: Deployment}]}", "simulate", "o.yaml: has no object with retries, timeouts or breakers, only of kind Deployment, Service\n", exitNothing},
		"prose":                {"p.yaml", "nothing: here\n", "import", "p.yaml: does not show which system it is for: use --from NAME\n", 0},
		"a policy as a graph":  {"g.yaml", virtualService, "graph", "g.yaml: is a file of istio, but a graph is expected: give the file with --config, and a graph\n", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(dir, c.file)
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{c.command, file}
			if c.command == "simulate" {
				args = []string{c.command, "--config", file}
			}
			code, out, errs := executeIn(t, "", args...)
			if want := "lab " + c.command + ": " + dir + string(filepath.Separator) + c.want; code != max(c.code, cli.ExitUsage) || out != "" || errs != want {
				t.Errorf("got exit code %d, stdout %q, stderr %q, want %d, none, %q", code, out, errs, max(c.code, cli.ExitUsage), want)
			}
		})
	}
}

const virtualService = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {http: [{retries: {attempts: 7}, route: [{destination: {host: a}}]}]}\n"

// Editors and shells of Windows write a byte order mark, or UTF-16.
func TestTextFromWindows(t *testing.T) {
	t.Parallel()
	utf16 := func(first string, low int) string {
		text := first
		for _, c := range virtualService {
			unit := [2]byte{}
			unit[low] = byte(c)
			text += string(unit[:])
		}
		return text
	}
	for name, text := range map[string]string{
		"lines":               strings.ReplaceAll(virtualService, "\n", "\r\n"),
		"UTF-8 with a mark":   "\xef\xbb\xbf" + virtualService,
		"UTF-16":              utf16("\xff\xfe", 0),
		"UTF-16 in big order": utf16("\xfe\xff", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := executeIn(t, text, "import", "-")
			if code != cli.ExitOK || !strings.Contains(out, "maxAttempts: 8") {
				t.Errorf("got exit code %d, stdout %q, stderr %q, want a policy with 8 attempts", code, out, errs)
			}
		})
	}
}

// The standard input cannot be read twice.
func TestStandardInputTwice(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"lab graph: --config: the standard input is the graph already\n":  {"graph", "-", "--config", "-"},
		"lab compare: --before: the standard input is --config already\n": {"compare", "--before", "-", "--config", "-"},
	} {
		if code, out, errs := executeIn(t, virtualService, args...); code != cli.ExitUsage || out != "" || errs != want {
			t.Errorf("%s: got exit code %d, stdout %q, stderr %q, want 2, none, %q", strings.Join(args, " "), code, out, errs, want)
		}
	}
}
