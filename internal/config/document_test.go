package config_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// document has a field of every kind that a configuration may hold.
type document struct {
	common   `yaml:",inline"`
	Routes   []route            `yaml:"routes"`
	Policies map[string]policy  `yaml:"policies"`
	Limits   limits             `yaml:"limits"`
	Note     *string            `yaml:"note"`
	Nested   map[string]*policy `yaml:"nested,omitempty"`
	Chain    []policy           `yaml:"chain,omitempty"`
	Hidden   chan int           `yaml:"-"`

	private int //nolint:unused // the decoder must not set unexported fields
}

type common struct {
	Verbose bool `yaml:"verbose"`
}

type route struct {
	Name  string `yaml:"name"`
	Match string `yaml:"match"`
}

type policy struct {
	Timeout time.Duration `yaml:"timeout"`
	Retry   retry         `yaml:"retry"`
}

type retry struct {
	MaxAttempts int     `yaml:"maxAttempts"`
	Statuses    []int   `yaml:"statuses"`
	Factor      float64 `yaml:"factor"`
}

func (p *policy) SetDefaults() {
	*p = policy{Timeout: 5 * time.Second, Retry: retry{MaxAttempts: 3, Statuses: []int{502, 503}, Factor: 2}}
}

type limits struct {
	Small  int8              `yaml:"small"`
	Port   uint16            `yaml:"port"`
	Narrow float32           `yaml:"narrow"`
	Ratio  float64           `yaml:"ratio"`
	Size   size              `yaml:"size"`
	Note   textual           `yaml:"note"`
	Extra  map[string]string `yaml:"extra"`
}

// size has its own text form: "64KiB".
type size int

func (s *size) UnmarshalText(text []byte) error {
	number, kibi := strings.CutSuffix(string(text), "KiB")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 1<<20 {
		return fmt.Errorf("expected a size such as 64KiB, got %q", text)
	}
	if kibi {
		n *= 1024
	}
	*s = size(n)
	return nil
}

func (s size) MarshalText() ([]byte, error) {
	if s > 0 && s%1024 == 0 {
		return fmt.Appendf(nil, "%dKiB", s/1024), nil
	}
	return fmt.Appendf(nil, "%d", s), nil
}

// textual keeps its text. Its marshal method has a pointer receiver.
type textual struct{ text string }

func (t *textual) UnmarshalText(text []byte) error { t.text = string(text); return nil }
func (t *textual) MarshalText() ([]byte, error)    { return []byte(t.text), nil }

var errRouteWithoutMatch = errors.New("expected a pattern, got none")

func (d *document) Validate() error {
	var m mistake.List
	for i, r := range d.Routes {
		if r.Match == "" {
			m.Merge(config.Join(config.Index("routes", i), "match"), errRouteWithoutMatch)
		}
	}
	for name, p := range d.Policies {
		m.Merge(config.Join("policies", name), p.validate())
	}
	if d.Limits.Extra["whole"] != "" {
		m.Merge("", errors.New("the whole of it is wrong"))
	}
	return m.Err()
}

func (p policy) validate() error {
	var m mistake.List
	m.Check(p.Timeout >= 0, "timeout", "must not be negative, got %s", p.Timeout)
	m.Check(p.Retry.MaxAttempts >= 1, "retry.maxAttempts", "must be at least 1, got %d", p.Retry.MaxAttempts)
	return m.Err()
}

const whole = `verbose: true
routes:
  - name: process
    match: "GET /process"
  - {name: other, match: /other}
policies:
  default:
    timeout: 1.5s
    retry:
      maxAttempts: 4
      statuses: [429, 503]
      factor: 1.5
limits:
  small: -128
  port: 65535
  narrow: 0.5
  ratio: 1
  size: 64KiB
  note: 0.30
  extra: {b: two, a: "1"}
note: ""
nested:
  a.b: {timeout: 0}
`
