package cli

import (
	"io"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// HelpColumns is the most columns that a help uses.
const HelpColumns = 80

// Columns returns the width of the terminal that w is, in characters; 0 if it is none.
func Columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return 0
}

// Print writes text to Stdout. Lines that are longer than the terminal is wide are wrapped as by
// [Wrap], but not joined.
func (p Program) Print(text string) error {
	if p.Columns > 0 {
		text = wrapLines(text, p.Columns)
	}
	_, err := io.WriteString(p.Stdout, text)
	return err
}

// Wrap breaks text into lines of at most columns characters. Lines of a paragraph are joined first.
// A line that begins with a space is not joined: its description, if two spaces stand before it, is
// wrapped in its own column, and an example stays as it is.
func Wrap(text string, columns int) string {
	var joined strings.Builder
	for line := range strings.Lines(text) {
		next := strings.TrimSuffix(line, "\n")
		if prose := next != "" && next[0] != ' '; prose {
			if s := joined.String(); s != "" && !strings.HasSuffix(s, "\n") {
				joined.WriteByte(' ')
			}
			joined.WriteString(next)
			continue
		}
		if s := joined.String(); s != "" && !strings.HasSuffix(s, "\n") {
			joined.WriteByte('\n')
		}
		joined.WriteString(line)
	}
	return wrapLines(joined.String(), columns)
}

// wrapLines is Wrap without joining any lines.
func wrapLines(text string, columns int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := described.FindStringSubmatch(line)
		switch {
		case utf8.RuneCountInString(line) <= columns, m == nil && strings.HasPrefix(line, " "):
			b.WriteString(line + "\n")
			continue
		case m == nil:
			fill(&b, "", "", line, columns)
			continue
		}
		left, about := m[1], m[2]
		if indent := utf8.RuneCountInString(left); columns-indent >= 30 {
			fill(&b, left, strings.Repeat(" ", indent), about, columns)
			continue
		}
		b.WriteString(strings.TrimRight(left, " ") + "\n")
		fill(&b, "      ", "      ", about, columns)
	}
	return b.String()
}

// described matches a line of two columns, such as a flag and what it does.
var described = regexp.MustCompile(`^(  (?:--)?\S.*?  +)(\S.*)$`)

// fill writes words into lines that begin with indent, the first one with first.
func fill(b *strings.Builder, first, indent, words string, columns int) {
	line, empty := first, true
	for _, word := range strings.Fields(words) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			b.WriteString(line + "\n")
			line, empty = indent, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	b.WriteString(line + "\n")
}
