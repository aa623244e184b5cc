package docs_test

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"
)

// tables writes a section for each mapping: its purpose, and a table of its keys.
func (d *document) tables() string {
	var out strings.Builder
	written := map[reflect.Type]string{} // the path of the section that a type has
	d.section(&out, d.root, written)
	return strings.TrimSpace(out.String())
}

func (d *document) section(out *strings.Builder, k *key, written map[reflect.Type]string) {
	written[k.typ] = k.path
	if k.path != "" {
		fmt.Fprintf(out, "### `%s`\n\n", k.path)
		if doc := k.sectionDoc(); doc != "" {
			fmt.Fprintf(out, "%s\n\n", doc)
		}
	}
	var inner []*key
	var rows strings.Builder
	var repeated []string // keys that the document has too, with the same meaning
	for _, c := range k.keys {
		if c.repeats {
			repeated = append(repeated, "`"+c.name()+"`")
			continue
		}
		takes, meaning := c.takes, c.withoutSubject(c.doc)
		if m := c.mapping(); m != nil {
			path, ok := written[m.typ]
			if !ok {
				path = m.path
				inner = append(inner, m)
			}
			takes, meaning = fmt.Sprintf("[%s](#%s)", takes, slug(path)), c.withoutSubject(c.synopsis())
			if c.element != nil { // the section has the comment of the elements
				meaning = c.withoutSubject(c.doc)
			}
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s | %s |\n", c.name(), takes, c.shown(), strings.ReplaceAll(meaning, "|", `\|`))
	}
	if rows.Len() > 0 {
		fmt.Fprintf(out, "| key | takes | default | meaning |\n|---|---|---|---|\n%s\n", rows.String())
	}
	if repeated != nil {
		fmt.Fprintf(out, "As outside of the schedule: %s.\n\n", strings.Join(repeated, ", "))
	}
	for _, c := range k.keys {
		values := d.values[c.typ.String()]
		if values == nil || written[c.typ] != "" {
			continue
		}
		written[c.typ] = c.path
		known := fieldNames(k.typ)
		if group := prose(d.groups[c.typ.String()], known); group != "" {
			fmt.Fprintf(out, "%s\n\n", group)
		}
		for _, v := range values {
			fmt.Fprintf(out, "- `%s`: %s\n", v.text, known.replace(v.doc))
		}
		out.WriteString("\n")
	}
	for _, m := range inner {
		d.section(out, m, written)
	}
}

// withoutSubject removes the key's own name, and "is" or "are", from the beginning of a text.
func (k *key) withoutSubject(text string) string {
	text = strings.TrimPrefix(text, "`"+k.name()+"` ")
	for _, verb := range []string{"is ", "are "} {
		text = strings.TrimPrefix(text, verb)
	}
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// sectionDoc returns the text over a mapping's own table. The first sentence is in the row of the
// table above that links here, and is not repeated.
func (k *key) sectionDoc() string {
	if k.isElement() {
		return k.doc
	}
	return strings.TrimSpace(strings.TrimPrefix(k.doc, k.synopsis()))
}

// slug returns the anchor that GitHub gives a heading.
func slug(heading string) string {
	heading = regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}
