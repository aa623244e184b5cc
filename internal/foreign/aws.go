package foreign

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

var (
	iniSection = regexp.MustCompile(`^\[\s*([^\]]+?)\s*\]\s*([#;].*)?$`)
	envLine    = regexp.MustCompile(`^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$`)
)

// parseAWS reads the shared config file, or a file of environment variables: those before the first
// section.
func parseAWS(name string, data []byte) ([]*node, error) {
	if err := textMistake(name, data); err != nil {
		return nil, err
	}
	root := &node{shape: mapping, line: 1, column: 1}
	current := root
	var parent *node // of indented lines
	var errs mistake.List
	sections := map[string]*node{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		line = strings.TrimRight(line, "\r\n")
		text := strings.TrimSpace(line)
		column := 1 + utf8.RuneCountInString(line[:len(line)-len(strings.TrimLeft(line, " \t"))])
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		if m := iniSection.FindStringSubmatch(text); m != nil {
			parent = nil
			if current = sections[m[1]]; current == nil { // SDKs join sections of the same name
				current = &node{path: m[1], key: m[1], shape: mapping, line: number, column: column, keyLine: number, keyColumn: column}
				sections[m[1]] = current
				root.items = append(root.items, current)
			}
			continue
		}
		m := envLine.FindStringSubmatch(text)
		if m == nil {
			errs = append(errs, &mistake.Mistake{File: name, Line: number, Column: column, Message: "expected a section such as [default] or a setting such as max_attempts = 3"})
			continue
		}
		into := current
		if column > 1 && parent != nil {
			into = parent
			into.shape = mapping
		}
		leaf := awsSetting(into, m[1], m[2], number, column)
		leaf.column += utf8.RuneCountInString(text) - utf8.RuneCountInString(strings.TrimSpace(m[2]))
		if into == current {
			parent = leaf
		}
		into.items = append(into.items, leaf)
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	if len(root.items) == 0 {
		return nil, nil
	}
	return []*node{root}, nil
}

// awsSetting returns a setting of a section. Quotes and a comment after a space do not belong to
// the value.
func awsSetting(section *node, key, value string, line, column int) *node {
	if at := strings.Index(value, " #"); at >= 0 {
		value = value[:at]
	}
	value = strings.Trim(strings.TrimSpace(value), `"'`)
	return &node{path: config.Join(section.path, key), key: key, text: value, line: line, column: column, keyLine: line, keyColumn: column}
}

func readAWS(r *reader, roots []*node) []Policy {
	var all []Policy
	for _, root := range roots {
		variables := &node{shape: mapping, line: root.line, column: root.column}
		for _, item := range awsLast(r, root.items, laterOne) {
			if item.shape != mapping {
				variables.items = append(variables.items, item)
				continue
			}
			if awsOther(item.key) {
				ignore(r, item)
				continue
			}
			item.items = awsLast(r, item.items, laterOne+"; the AWS CLI refuses the file")
			if p, ok := awsSection(r, item, strings.TrimPrefix(item.key, "profile "), "max_attempts", "retry_mode"); ok {
				all = append(all, p)
			}
		}
		if len(variables.items) > 0 {
			if p, ok := awsSection(r, variables, "environment", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"); ok {
				all = append(all, p)
			}
		}
	}
	return all
}

// awsLast drops each setting that a later one of the same name replaces.
func awsLast(r *reader, items []*node, sentence string) []*node {
	last := lastOf(items, keyOf)
	return slices.DeleteFunc(slices.Clone(items), func(item *node) bool {
		replaced := last[item.key] != item
		if replaced {
			r.mark(item, Dropped, sentence)
		}
		return replaced
	})
}

// awsOther reports whether a section is no profile.
func awsOther(name string) bool {
	kind, _, _ := strings.Cut(name, " ")
	return slices.Contains([]string{"sso-session", "services", "plugins", "preview"}, kind)
}

// awsSection reads a profile or the environment, and reports whether it says anything about
// retries.
func awsSection(r *reader, n *node, name, attempts, mode string) (Policy, bool) {
	p := Policy{Name: name}
	most, kind, connect, read := 0, "standard", 60, 60
	known := fields{
		attempts:               set(&p, "Retry.MaxAttempts", &most, whole(1, maxWhole)),
		mode:                   set(&p, "Retry", &kind, oneOf("legacy", "standard", "adaptive")),
		"AWS_NEW_RETRIES_2026": drop("it is the default since November 2026"),
		"defaults_mode":        drop("the timeouts that a mode has depend on the SDK"),
		"AWS_DEFAULTS_MODE":    drop("the timeouts that a mode has depend on the SDK"),
		"cli_connect_timeout":  set(&p, "ConnectTimeout", &connect, whole(0, maxWhole)),
		"cli_read_timeout":     set(&p, "TryTimeout", &read, whole(0, maxWhole)),
	}
	says := false
	for _, item := range n.items {
		if do := known[item.key]; do != nil {
			says = true
			do(r, item)
			continue
		}
		for key := range known {
			if config.Distance(strings.ToLower(item.key), strings.ToLower(key)) <= 2 {
				r.unknown(item, known)
			}
		}
		ignore(r, item)
	}
	if !says {
		return p, false
	}
	p.ConnectTimeout, p.TryTimeout = time.Duration(connect)*time.Second, time.Duration(read)*time.Second
	p.Retry = awsRetry(kind, most)
	if n.get(mode) == nil {
		r.byDefault(n, mode+": standard, as most SDKs since November 2026")
	}
	if n.get(attempts) == nil {
		r.byDefault(n, attempts+map[string]string{"legacy": ": 5"}[kind]+map[bool]string{true: ": 3"}[kind != "legacy"])
	}
	switch kind {
	case "adaptive":
		r.change(n.get(mode), Approximated, "taken for standard: the rate limit that follows throttling is left out")
	case "legacy":
		r.change(n.get(mode), Approximated, "legacy differs between SDKs; taken as the AWS CLI does it: 5 attempts, full jitter from 1s, no quota")
	default:
		r.byDefault(n, "500 tokens, 14 for a retry, 5 after throttling; full jitter from 50ms, or 1s after throttling, to 20s")
	}
	if n.get("cli_connect_timeout") == nil || n.get("cli_read_timeout") == nil {
		r.byDefault(n, "60s to connect and for an answer, as in the AWS CLI")
	}
	return p, true
}

func awsRetry(kind string, most int) Retry {
	retry := Retry{
		MaxAttempts: 3,
		On: Conditions{
			Statuses: []StatusRange{{429, 429}, {500, 500}, {502, 504}}, Connect: true, Refused: true, Reset: true, Timeout: true,
		},
		Backoff: Backoff{
			Kind: BackoffExponential, Base: 50 * time.Millisecond, Max: 20 * time.Second, Factor: 2, Jitter: JitterFull, ThrottledBase: time.Second,
		},
		Budget: Budget{Kind: BudgetTokens, Tokens: 500, Cost: 14, ThrottledCost: 5, Refund: true, Refill: 1},
	}
	if kind == "legacy" {
		retry.MaxAttempts, retry.Budget = 5, Budget{}
		retry.Backoff.Base, retry.Backoff.ThrottledBase = time.Second, 0
	}
	if most > 0 {
		retry.MaxAttempts = most
	}
	return retry
}
