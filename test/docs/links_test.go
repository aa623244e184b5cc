package docs_test

import (
	"bytes"
	"fmt"
	"image"
	_ "image/gif"
	_ "image/png"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// TestReadmeShowsTheDemosPolicy checks that the README shows exactly the policy that the demo runs.
func TestReadmeShowsTheDemosPolicy(t *testing.T) {
	policy := files.Read(t, filepath.Join(root, "cmd/demo/rebound.yaml"))
	if !slices.Contains(fenced(files.Read(t, filepath.Join(root, "README.md")), "yaml"), policy) {
		t.Errorf("got no YAML block in README.md that is cmd/demo/rebound.yaml, want\n%s", policy)
	}
}

func TestPages(t *testing.T) {
	pages := slices.Concat(glob(t, "*.md"), glob(t, "docs/*.md"), glob(t, "docs/adr/*.md"))
	for _, path := range pages {
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			for _, m := range untrue(root, name, files.Read(t, path)) {
				t.Error(m)
			}
		})
	}
}

// TestUntrue checks that each rule finds its kind of mistake, even while no page has one.
func TestUntrue(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Makefile":      ".PHONY: demo\ndemo: ## run\n\tgo run ./cmd/demo\n",
		"cmd/demo/m.go": "package main\n",
		"docs/there.md": "# One `<key>`\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		text string
		want string // a part of the only mistake; none when empty
	}{
		"link":                    {"[x](there.md) and [y](../cmd/demo)", ""},
		"link to nothing":         {"[x](missing.md)", "missing.md"},
		"link in code":            {"`a[x](missing.md)`\n```go\nb[x](missing.md)\n```\n", ""},
		"link elsewhere":          {"[x](https://example.com/missing.md)", ""},
		"anchor":                  {"[x](there.md#one-key)", ""},
		"anchor to nothing":       {"[x](there.md#two)", "there.md#two"},
		"anchor on the page":      {"# Here\n\n[x](#here)", ""},
		"anchor not on the page":  {"# Here\n\n[x](#there)", "#there"},
		"page":                    {"see docs/there.md.", ""},
		"missing page":            {"see docs/missing.md.", "docs/missing.md"},
		"program":                 {"    $ go run ./cmd/demo --seed 1", ""},
		"missing program":         {"`go run ./cmd/missing`", "./cmd/missing"},
		"all packages":            {"go test -race ./...", ""},
		"target":                  {"`make demo`\n\n    $ make demo\n", ""},
		"missing target":          {"`make tea`", "make tea"},
		"missing target in block": {"```sh\nmake tea\n```\n", "make tea"},
		"make in prose":           {"that will\nmake tea", ""},
		"faults":                  {"curl -X PUT -d 'errorRate: 1' localhost:5001/faults", ""},
		"impossible faults":       {"curl -X PATCH -d 'errorRate: 2' localhost:5001/faults", "errorRate"},
		"half of the faults":      {"curl -X PUT -d 'schedule: [{at: 1s}]' localhost:5001/faults", "schedule[0].for"},
	} {
		t.Run(name, func(t *testing.T) {
			got := untrue(dir, "docs/page.md", c.text)
			switch {
			case c.want == "" && len(got) > 0:
				t.Errorf("got %q, want none", got)
			case c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)):
				t.Errorf("got %q, want one with %q", got, c.want)
			}
		})
	}
}

var (
	block    = regexp.MustCompile("(?ms)^```.*?^```$")
	inline   = regexp.MustCompile("`[^`\n]+`")
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	docsPath = regexp.MustCompile(`(?:^|[^\w./-])(docs/[\w./-]*\w)`)
	goPath   = regexp.MustCompile(`\bgo (?:run|test|build) (?:-\S+ )*\./([\w/-]*)`)
	makeLine = regexp.MustCompile("(?m)(?:`|^    (?:\\$ )?)make ([a-z][\\w-]*)")
	curl     = regexp.MustCompile(`curl -X (PUT|PATCH) [^\n]*?-d '([^']*)' \S+/faults`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// untrue lists the links, paths, commands and documents of a page that are wrong in this tree.
func untrue(root, page, text string) (found []string) {
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		return err == nil
	}

	for _, m := range link.FindAllStringSubmatch(inline.ReplaceAllString(block.ReplaceAllString(text, ""), ""), -1) {
		if strings.Contains(m[1], ":") {
			continue // elsewhere
		}
		target, anchor, _ := strings.Cut(m[1], "#")
		targetText := text
		if target != "" {
			target = filepath.Join(filepath.Dir(page), target)
			if !exists(target) {
				report("the link %s leads to %s, which is not there", m[1], target)
				continue
			}
			b, _ := os.ReadFile(filepath.Join(root, target)) // a directory has no text, and no anchors
			targetText = string(b)
		}
		if anchor != "" && !slices.Contains(anchors(targetText), anchor) {
			report("the link %s leads to a heading that is not there", m[1])
		}
	}
	for _, m := range docsPath.FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
		if !exists(m[1]) && !strings.Contains(text, "]("+m[1]) { // a link is reported as one
			report("%s is not there", m[1])
		}
	}
	for _, m := range goPath.FindAllStringSubmatch(text, -1) {
		if !exists(m[1]) {
			report("%s: ./%s is not there", m[0], m[1])
		}
	}
	makefile, _ := os.ReadFile(filepath.Join(root, "Makefile")) // without it there is no target
	indented := block.ReplaceAllStringFunc(text, func(b string) string { return strings.ReplaceAll(b, "\n", "\n    ") })
	for _, m := range makeLine.FindAllStringSubmatch(indented, -1) {
		if !regexp.MustCompile(`(?m)^` + m[1] + `:`).Match(makefile) {
			report("make %s is no target of the Makefile", m[1])
		}
	}
	for _, m := range curl.FindAllStringSubmatch(text, -1) {
		spec := faults.Spec{}
		if m[1] == "PATCH" {
			spec = faults.Default()
		}
		if err := config.Decode(m[0], []byte(m[2]), &spec); err != nil {
			report("%v", err)
		}
	}
	return found
}

func anchors(text string) (all []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		all = append(all, slug(m[1]))
	}
	return all
}

// fenced returns the code blocks in a language.
func fenced(text, language string) (blocks []string) {
	for _, b := range block.FindAllString(text, -1) {
		if first, rest, _ := strings.Cut(b, "\n"); first == "```"+language {
			blocks = append(blocks, strings.TrimSuffix(rest, "```"))
		}
	}
	return blocks
}

// No picture of the README is taller than 600 px at the width of GitHub's page: a reader sees text
// beside it. None makes the page slow to load.
func TestReadmesPictures(t *testing.T) {
	const pageWidth, tallest, largest = 880, 600, 1_000_000
	pictures := regexp.MustCompile(`!\[[^\]]+\]\(([^)]+)\)`).FindAllStringSubmatch(files.Read(t, filepath.Join(root, "README.md")), -1)
	if len(pictures) < 3 {
		t.Fatalf("got %d pictures in README.md, want at least 3", len(pictures))
	}
	size := regexp.MustCompile(`<svg [^>]*width="(\d+)" height="(\d+)"`)
	for _, p := range pictures {
		content := []byte(files.Read(t, filepath.Join(root, p[1])))
		var width, height int
		if m := size.FindSubmatch(content); m != nil {
			width, _ = strconv.Atoi(string(m[1]))
			height, _ = strconv.Atoi(string(m[2]))
		} else if c, _, err := image.DecodeConfig(bytes.NewReader(content)); err != nil {
			t.Errorf("%s: %v", p[1], err)
			continue
		} else {
			width, height = c.Width, c.Height
		}
		if shown := height * min(width, pageWidth) / width; shown > tallest || len(content) > largest {
			t.Errorf("%s is %d px tall and has %d bytes, want at most %d and %d", p[1], shown, len(content), tallest, largest)
		}
	}
}
