package docs_test

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/rebound-dev/rebound/internal/config"
)

// tables is one section for each mapping: what it is for, and its keys.
func (d *document) tables() string {
	var out strings.Builder
	written := map[reflect.Type]string{} // the path of the section that a type has
	d.section(&out, d.root, written)
	return strings.TrimSpace(out.String())
}

func (d *document) section(out *strings.Builder, k *key, written map[reflect.Type]string) {
	written[k.typ] = k.path
	if k.path != "" {
		fmt.Fprintf(out, "### `%s`\n\n%s\n\n", k.path, k.doc)
	}
	out.WriteString("| key | takes | default | meaning |\n|---|---|---|---|\n")
	var inner []*key
	for _, c := range k.keys {
		takes, meaning := c.takes, c.doc
		if m := c.mapping(); m != nil {
			path, ok := written[m.typ]
			if !ok {
				path = m.path
				inner = append(inner, m)
			}
			takes, meaning = fmt.Sprintf("[%s](#%s)", takes, slug(path)), c.synopsis()
		}
		fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", c.path, takes, c.shown(), strings.ReplaceAll(meaning, "|", `\|`))
	}
	out.WriteString("\n")
	for _, c := range k.keys {
		values := d.values[c.typ.String()]
		if values == nil || written[c.typ] != "" {
			continue
		}
		written[c.typ] = c.path
		known := fieldNames(k.typ)
		fmt.Fprintf(out, "%s\n\n", prose(d.groups[c.typ.String()], known))
		for _, v := range values {
			fmt.Fprintf(out, "- `%s`: %s\n", v.text, known.replace(v.doc))
		}
		out.WriteString("\n")
	}
	for _, m := range inner {
		d.section(out, m, written)
	}
}

// slug is the anchor that a heading gets on GitHub.
func slug(heading string) string {
	heading = regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(heading, " ", "-")
}

// annotated is v as the program prints it, each key with what it is for.
func (d *document) annotated(t *testing.T, v any) string {
	t.Helper()
	text, err := config.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var file yaml.Node
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	d.annotate(t, file.Content[0], d.root)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&file); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func (d *document) annotate(t *testing.T, n *yaml.Node, k *key) {
	t.Helper()
	if n.Kind == yaml.SequenceNode && k.element.keys != nil {
		for _, item := range n.Content {
			d.annotate(t, item, k.element)
		}
		return
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		child := k.element // of a mapping whose keys the reader chooses
		if child == nil {
			child = d.all[strings.TrimPrefix(k.path+"."+name.Value, ".")]
		}
		if child == nil {
			t.Fatalf("%s is printed, want it among the keys of %s", name.Value, k.typ)
		}
		target := value
		if len(value.Content) > 0 {
			target = name
		}
		if k.element == nil {
			target.LineComment = child.remark()
		}
		d.annotate(t, value, child)
	}
}

// remark is a key's synopsis without its subject, short enough to stand behind
// the key.
func (k *key) remark() string {
	text := strings.TrimSuffix(k.synopsis(), ".")
	subjects := []string{"`" + k.name() + "` ", "is ", "are "}
	if k.element != nil {
		subjects = append(subjects, k.element.typ.Name()+" ", "is ")
	}
	for _, s := range subjects {
		text = strings.TrimPrefix(text, s)
	}
	if end := strings.IndexAny(text, ";:"); end > 0 && len(text) > 100 {
		text = text[:end]
	}
	return strings.ToLower(text[:1]) + text[1:]
}
