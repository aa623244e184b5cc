package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// table is a table of text.
type table struct {
	header []string
	rows   [][]string
	left   int // columns that are aligned to the left, from the first; the others to the right
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

const tableGap = "   "

// text returns the table in lines of at most columns characters; 0 means that there is no limit. A
// table that is wider becomes a list with one entry for each row.
func (t table) text(columns int) string {
	widths := make([]int, len(t.header))
	total := 0
	for i := range t.header {
		for _, row := range append([][]string{t.header}, t.rows...) {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		total += widths[i]
	}
	if columns > 0 && total+len(tableGap)*(len(widths)-1) > columns {
		return t.list()
	}
	var b strings.Builder
	for _, row := range append([][]string{t.header}, t.rows...) {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i >= t.left {
				cell, pad = pad+cell, ""
			}
			if i > 0 {
				line.WriteString(tableGap)
			}
			line.WriteString(cell + pad)
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return b.String()
}

func (t table) list() string {
	var b strings.Builder
	for _, row := range t.rows {
		b.WriteString(row[0] + "\n")
		for i, cell := range row[1:] {
			fmt.Fprintf(&b, "  %s  %s\n", t.header[i+1], cell)
		}
	}
	return b.String()
}

// markdown returns the table as a table of Markdown.
func (t table) markdown() string {
	var b strings.Builder
	row := func(cells []string) {
		for _, cell := range cells {
			b.WriteString("| " + strings.TrimSpace(cell) + " ")
		}
		b.WriteString("|\n")
	}
	row(t.header)
	for i := range t.header {
		if i < t.left {
			b.WriteString("|---")
		} else {
			b.WriteString("|--:")
		}
	}
	b.WriteString("|\n")
	for _, cells := range t.rows {
		row(cells)
	}
	return b.String()
}

// code returns a name out of a file as code of Markdown: its text has no meaning there.
func code(name string) string {
	return "`" + strings.NewReplacer("`", "'", "|", `\|`).Replace(oneLine(name)) + "`"
}
