package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/rebound-dev/rebound/internal/telemetry"
	"github.com/rebound-dev/rebound/internal/testkit/files"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// TestObservability generates docs/observability.md from two sides: the meaning of a name is the
// comment of its declaration, and the place where it appears comes from the programs' output. A
// name that only one side has is an error.
func TestObservability(t *testing.T) {
	v := newVisible(t)
	tmpl, err := template.New("observability.md.tmpl").Funcs(template.FuncMap{
		"notice": func() string {
			return "<!-- Generated from the code and from the programs' output: go test ./test/docs -update -->"
		},
		"attributes": func(spans ...string) string { return v.attributeTable(t, spans) },
		"metrics":    func() string { return v.metricTable() },
		"labels":     func() string { return v.labelTable(t) },
		"lines":      func(pkgs ...string) string { return v.lineTable(pkgs) },
		"fields":     func(pkgs ...string) string { return v.fieldTable(pkgs) },
		"variables":  variableTable,
		"values":     func(typ string) string { return v.valueTable(t, typ) },
	}).ParseFiles("observability.md.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := tmpl.Execute(&page, nil); err != nil {
		t.Fatal(err)
	}
	golden.File(t, filepath.Join(root, "docs", "observability.md"), page.Bytes())

	// The hand-written text may only name what exists.
	for _, m := range regexp.MustCompile("`((?:rebound[._]|https?_|rpc_)[a-z_.]+)`").FindAllStringSubmatch(page.String(), -1) {
		if name := m[1]; v.metrics[name] == nil && !v.attributes[name] && !v.labels[name] {
			t.Errorf("the page names %s, which does not exist", name)
		}
	}
	for _, block := range fenced(page.String(), "json") {
		if got, want := lineOf(t, block).keys, v.seen["call"].keys; !slices.Equal(got, want) {
			t.Errorf("the example of a log line has the keys %q, want %q", got, want)
		}
	}
}

// visible is everything that the programs show, with the comments about it.
type visible struct {
	comments
	calls []logCall // in the source
	*produced
	spans  map[string][]string // in the golden traces: the attributes of each kind of span and event
	labels map[string]bool     // of any metric
}

func newVisible(t *testing.T) *visible {
	t.Helper()
	v := &visible{comments: readComments(t), produced: produce(t), spans: map[string][]string{}, labels: map[string]bool{}}
	states := v.values["resilience.State"]
	for i := range states {
		states[i].text = resilience.State(i).String() //nolint:gosec // there are three
	}
	v.calls = logCalls(t, v.comments)

	// The golden traces have all spans of a call. They lack the event for a request that net/http
	// sends again by itself, and flaky-server's spans.
	v.spans["transport.resend"] = []string{"rebound.connection.reused"}
	v.attributes["rebound.connection.reused"] = true
	v.readTraces(t)
	declared := map[string]bool{string(telemetry.KeyFault): true}
	for _, c := range v.consts["transport."] {
		if strings.HasPrefix(c.text, "rebound.") {
			declared[c.text] = true
		}
	}
	compare(t, "attribute", declared, v.attributes)

	known := map[string]bool{}
	for _, m := range v.metrics {
		for _, l := range m.labels {
			v.labels[l] = true
		}
	}
	for _, c := range v.prefixed("telemetry.", "label") {
		known[prometheusName(c.text)] = true
	}
	compare(t, "label", known, v.labels)
	for _, m := range regexp.MustCompile(`meter\.\w+\("([a-z.]+)"`).FindAllStringSubmatch(files.Read(t, filepath.Join(root, "internal/telemetry/metrics.go")), -1) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(v.metrics)), func(name string) bool { return strings.HasPrefix(name, prometheusName(m[1])) }) {
			t.Errorf("the instrument %s exists, want a program to export it", m[1])
		}
	}

	v.compareLines(t)
	return v
}

// compare reports names that are declared but not seen, and names that are seen but not declared.
func compare(t *testing.T, what string, declared, seen map[string]bool) {
	t.Helper()
	for name := range declared {
		if !seen[name] {
			t.Errorf("the %s %s is declared, want something to emit it", what, name)
		}
	}
	for name := range seen {
		if !declared[name] {
			t.Errorf("the %s %s is emitted, want a constant with a comment that declares it", what, name)
		}
	}
}

// compareLines compares the log lines that the programs wrote with the calls in the source.
func (v *visible) compareLines(t *testing.T) {
	t.Helper()
	for message, line := range v.seen {
		i := slices.IndexFunc(v.calls, func(c logCall) bool { return c.message.text == message })
		if i < 0 {
			t.Errorf("a log line has the message %q, want a constant that declares it", message)
			continue
		}
		c := v.calls[i]
		common := v.common(c.pkg)
		if c.level != line.level {
			t.Errorf("the log line %q was written at %s, want %s as in the source", message, line.level, c.level)
		}
		for _, key := range line.keys {
			if !slices.ContainsFunc(append(common, c.keys...), func(k value) bool { return k.text == key }) {
				t.Errorf("the log line %q has the key %s, want a constant of %s that declares it", message, key, c.pkg)
			}
		}
		for _, k := range c.keys {
			if !slices.Contains(line.keys, k.text) {
				t.Errorf("the log line %q has no key %s, want one", message, k.text)
			}
		}
	}
	for _, c := range v.calls {
		if c.pkg == "gateway" && v.seen[c.message.text] == nil {
			t.Errorf("no call through the gateway wrote the log line %q, want one", c.message.text)
		}
	}
}

// common returns the fields that the logger of pkg adds to all its lines. These are the declared
// fields that no logging call names. The fields of telemetry are on the lines of all packages.
func (v *visible) common(pkg string) (keys []value) {
	for _, p := range slices.Compact([]string{pkg, "telemetry"}) {
		for _, k := range v.prefixed(p+".", "log") {
			if !slices.ContainsFunc(v.calls, func(c logCall) bool { return c.pkg == p && slices.Contains(c.keys, k) }) {
				keys = append(keys, k)
			}
		}
	}
	return keys
}

// prefixed returns the constants of a package whose names begin with prefix.
func (c comments) prefixed(pkg, prefix string) (found []value) {
	for _, v := range c.consts[pkg] {
		if strings.HasPrefix(v.name, prefix) {
			found = append(found, v)
		}
	}
	return found
}

func (c comments) constant(t *testing.T, pkg, text string) value {
	t.Helper()
	i := slices.IndexFunc(c.consts[pkg], func(v value) bool { return v.text == text })
	if i < 0 {
		t.Fatalf("package %s declares no constant %q, want one", strings.TrimSuffix(pkg, "."), text)
	}
	return c.consts[pkg][i]
}

// meaning returns a constant's comment. Links to types become links to the sections about them.
func (c comments) meaning(v value) string {
	text := strings.NewReplacer(
		"[resilience.Reason]", "[reason](#reasons)",
		"[resilience.Verdict]", "[verdict](#verdicts)",
		"[resilience.State]", "[state](#states-of-a-circuit)",
		"[resilience.WaitSource]", "[source](#sources-of-a-wait)",
		"[faults.Fault]", "[fault](#faults)",
	).Replace(v.doc)
	return strings.ReplaceAll(prose(text, names{}), "|", `\|`)
}

// attributeTable returns one table of the attributes of some spans and events.
func (v *visible) attributeTable(t *testing.T, spans []string) string {
	t.Helper()
	var order []string
	on := map[string][]string{} // the spans of an attribute
	for _, span := range spans {
		if len(v.spans[span]) == 0 {
			t.Fatalf("no golden trace has a span or an event %q", span)
		}
		for _, key := range v.spans[span] {
			if !slices.Contains(order, key) {
				order = append(order, key)
			}
			on[key] = append(on[key], span)
		}
	}
	var out strings.Builder
	out.WriteString("| attribute | of | meaning |\n|---|---|---|\n")
	conventions := map[string][]string{} // by the spans that have them
	for _, key := range order {
		of := strings.Join(on[key], ", ")
		if !strings.HasPrefix(key, "rebound.") {
			conventions[of] = append(conventions[of], "`"+key+"`")
			continue
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s |\n", key, of, v.meaning(v.constant(t, "transport.", key)))
	}
	fmt.Fprintf(&out, "| `%s` | flaky-server's span | %s |\n", telemetry.KeyFault, v.meaning(v.constant(t, "telemetry.", string(telemetry.KeyFault))))
	for _, of := range slices.Sorted(maps.Keys(conventions)) {
		fmt.Fprintf(&out, "| %s | %s | As in the semantic conventions, where they apply. |\n", strings.Join(conventions[of], ", "), of)
	}
	return strings.TrimSpace(out.String())
}

// readTraces collects the attributes of the spans in the golden traces.
func (v *visible) readTraces(t *testing.T) {
	t.Helper()
	span := regexp.MustCompile(`^ *(\S+)(?: .*)? (internal|client), at `)
	attribute := regexp.MustCompile(`^ *- ([a-z_.]+)=`)
	event := regexp.MustCompile(`^ *\* (\S+(?: [a-z]+)?) ([a-z_.]+)=`)
	for _, path := range glob(t, "pkg/transport/testdata/traces/*.txt") {
		current := ""
		for line := range strings.Lines(files.Read(t, path)) {
			if m := span.FindStringSubmatch(line); m != nil {
				if current = m[1]; m[2] == "client" {
					current = "attempt"
				}
			} else if m := attribute.FindStringSubmatch(line); m != nil {
				v.add(current, m[1])
			} else if m := event.FindStringSubmatch(line); m != nil {
				v.add(m[1], m[2])
			} else {
				t.Fatalf("%s: got line %q, want a span, an event or an attribute", path, line)
			}
		}
	}
}

func (v *visible) add(span, key string) {
	if !slices.Contains(v.spans[span], key) {
		v.spans[span] = append(v.spans[span], key)
	}
	if strings.HasPrefix(key, "rebound.") {
		v.attributes[key] = true
	}
}

func (v *visible) metricTable() string {
	var out strings.Builder
	out.WriteString("| metric | kind | labels | meaning |\n|---|---|---|---|\n")
	sorted := make([]*metric, 0, len(v.metrics))
	for _, m := range v.metrics {
		sorted = append(sorted, m)
	}
	slices.SortFunc(sorted, func(a, b *metric) int { return strings.Compare(a.name, b.name) })
	for _, m := range sorted {
		labels := []string{}
		for _, l := range m.labels {
			labels = append(labels, "`"+l+"`")
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(labels, ", "), m.help)
	}
	return strings.TrimSpace(out.String())
}

func (v *visible) labelTable(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	out.WriteString("| label | meaning |\n|---|---|\n")
	for _, l := range v.prefixed("telemetry.", "label") {
		fmt.Fprintf(&out, "| `%s` | %s |\n", prometheusName(l.text), v.meaning(l))
	}
	return strings.TrimSpace(out.String())
}

// prometheusName returns a label's key as the exporter writes it.
func prometheusName(key string) string { return strings.ReplaceAll(key, ".", "_") }

func (v *visible) lineTable(pkgs []string) string {
	var out strings.Builder
	out.WriteString("| line | level | fields | written when |\n|---|---|---|---|\n")
	for _, pkg := range pkgs {
		for _, line := range v.prefixed(pkg+".", "line") {
			i := slices.IndexFunc(v.calls, func(c logCall) bool { return c.pkg == pkg && c.message == line })
			fields := []string{}
			for _, k := range v.calls[i].keys {
				fields = append(fields, "`"+k.text+"`")
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", line.text, v.calls[i].level, strings.Join(fields, ", "), v.meaning(line))
		}
	}
	return strings.TrimSpace(out.String())
}

func (v *visible) fieldTable(pkgs []string) string {
	var out strings.Builder
	out.WriteString("| field | meaning |\n|---|---|\n")
	written := map[string]bool{}
	for _, pkg := range pkgs {
		for _, k := range v.prefixed(pkg+".", "log") {
			if row := fmt.Sprintf("| `%s` | %s |\n", k.text, v.meaning(k)); !written[row] {
				written[row] = true
				out.WriteString(row)
			}
		}
	}
	return strings.TrimSpace(out.String())
}

// variableTable returns a table of the environment variables that are honoured, or of the others.
func variableTable(honoured bool) string {
	var out strings.Builder
	out.WriteString(map[bool]string{true: "| variable | takes |\n|---|---|\n", false: "| variable | why |\n|---|---|\n"}[honoured])
	for _, v := range telemetry.Variables() {
		if v.Honoured == honoured {
			fmt.Fprintf(&out, "| `%s` | %s |\n", strings.Join(v.Names, "`, `"), v.Meaning)
		}
	}
	return strings.TrimSpace(out.String())
}

// valueTable returns a table of all values of a closed enumeration.
func (v *visible) valueTable(t *testing.T, typ string) string {
	t.Helper()
	if len(v.values[typ]) == 0 {
		t.Fatalf("%s has no values, want some", typ)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n\n| value | meaning |\n|---|---|\n", prose(v.docs[typ], names{"Reason": "A reason", "Verdict": "A verdict", "State": "The state", "WaitSource": "The source", "Fault": "A fault"}))
	for _, one := range v.values[typ] {
		if one.doc == "" {
			t.Errorf("the value %q of %s has no comment, want one", one.text, typ)
		}
		fmt.Fprintf(&out, "| `%s` | %s |\n", one.text, v.meaning(one))
	}
	if typ == "resilience.Reason" {
		family := strings.TrimPrefix(v.docs["resilience.StatusReason"], "StatusReason is ")
		fmt.Fprintf(&out, "| `%s` | %s |\n", strings.Replace(string(resilience.StatusReason(999)), "999", "<code>", 1), prose(family, names{}))
		family = strings.TrimPrefix(v.docs["resilience.GRPCReason"], "GRPCReason is ")
		fmt.Fprintf(&out, "| `%s` | %s |\n", strings.Replace(string(resilience.GRPCReason(14)), "unavailable", "<code>", 1), prose(family, names{}))
	}
	return strings.TrimSpace(out.String())
}

// lineOf reads a log line.
func lineOf(t *testing.T, text string) *line {
	t.Helper()
	l := &line{}
	decoder := json.NewDecoder(strings.NewReader(text))
	depth := 0
	for key := ""; ; {
		token, err := decoder.Token()
		if err != nil {
			t.Fatalf("got %s in the log, want a line of JSON: %v", text, err)
		}
		switch token := token.(type) {
		case json.Delim:
			if depth++; depth == 2 {
				return l
			}
			continue
		case string:
			if key == "" {
				key = token
				continue
			}
			switch key {
			case "level":
				l.level = token
			case "msg":
				l.message = token
			}
		}
		if key != "time" && key != "level" && key != "msg" {
			l.keys = append(l.keys, key)
		}
		key = ""
	}
}

// TestTraceIsPictured checks that the picture exists. cmd/demo's test with Jaeger draws it.
func TestTraceIsPictured(t *testing.T) {
	picture, err := os.ReadFile(filepath.Join(root, "docs", "trace.svg"))
	if err != nil || !bytes.Contains(picture, []byte("<title")) || !bytes.Contains(picture, []byte("backoff")) {
		t.Errorf("docs/trace.svg: got %v, want a picture of a trace", err)
	}
}
