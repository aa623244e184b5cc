package docs_test

import (
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxComment is the widest line of a comment, in columns. A tab counts as four.
const maxComment = 100

// TestCommentWidth checks the lines that hold only a comment. A comment behind code may be wider.
func TestCommentWidth(t *testing.T) {
	comments := 0
	for _, dir := range []string{".ci", ".github", "cmd", "deploy", "helm", "internal", "pkg", "test"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				if entry.Name() == "testdata" || entry.Name() == "node_modules" {
					return filepath.SkipDir
				}
				return nil
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if strings.HasSuffix(path, ".pb.go") {
				return nil // generated
			}
			lines := strings.Split(string(source), "\n")
			for _, n := range commentLines(path, source, lines) {
				comments++
				line := lines[n]
				if width := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")); width > maxComment && !strings.Contains(line, "://") && !strings.Contains(line, "//nolint") {
					t.Errorf("%s:%d: the comment is %d columns wide, want at most %d", strings.TrimPrefix(path, root+"/"), n+1, width, maxComment)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if comments < 1000 {
		t.Errorf("found %d lines of comments, want thousands: is the search broken?", comments)
	}
}

// commentLines returns the numbers, from 0, of the lines that hold only a comment.
func commentLines(path string, source []byte, lines []string) []int {
	marks := map[string][]string{
		"": {"#"}, ".yaml": {"#"}, ".yml": {"#"}, ".tpl": {"#"}, ".mod": {"//"},
		".js": {"//", "/*", " *"}, ".css": {"/*"},
	}
	ext := filepath.Ext(path)
	if filepath.Base(path) == ".helmignore" || filepath.Base(filepath.Dir(path)) == ".ci" {
		ext = ""
	}
	if ext == ".go" {
		return goCommentLines(source, lines)
	}
	var found []int
	for i, line := range lines {
		text := strings.TrimLeft(line, " \t")
		if slices.ContainsFunc(marks[ext], func(mark string) bool { return strings.HasPrefix(text, mark) }) {
			found = append(found, i)
		}
	}
	return found
}

// goCommentLines scans, so that text in a string is not taken for a comment.
func goCommentLines(source []byte, lines []string) []int {
	file := token.NewFileSet().AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, source, nil, scanner.ScanComments)
	var found []int
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return found
		}
		if tok != token.COMMENT {
			continue
		}
		first := file.Line(pos) - 1
		if strings.HasPrefix(text, "//") && strings.TrimLeft(lines[first], "\t") == text {
			found = append(found, first)
		}
	}
}
