package gateway

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Refusal describes a configuration that a Reload rejected.
type Refusal struct {
	At  time.Time
	Err error
}

// Reload replaces the configuration with the one that load returns. New calls use it, and calls in
// flight end under the old one. A circuit or a budget keeps its state if its own settings, its
// policy's name and its upstream stay the same. If load fails or the configuration is invalid, the
// old one stays in force, and [Gateway.Refused] returns the error until a Reload succeeds.
func (g *Gateway) Reload(load func() (Config, error)) error {
	g.reload.Lock()
	defer g.reload.Unlock()
	old := g.current.Load()
	c, err := load()
	var n *generation
	if err == nil {
		n, err = g.generation(c, old)
	}
	if err != nil {
		g.refusal.Store(&Refusal{At: time.Now(), Err: err})
		g.options.Logger.Error(lineRefused, slog.Any(logError, err))
		return err
	}
	g.current.Store(n)
	now := time.Now()
	g.past = append(slices.DeleteFunc(g.past, now.After), now.Add(old.longestTimeout()))
	g.refusal.Store(nil)
	for key, t := range old.transports {
		t.Retire(n.transports[key])
	}
	n.takeOver(old)
	g.options.Logger.Info(lineReloaded, slog.Int(logRoutes, len(c.Routes)), slog.Int(logPolicies, len(c.Policies)))
	return nil
}

// Refused returns the rejected configuration of the last [Gateway.Reload], or nil if it succeeded.
func (g *Gateway) Refused() *Refusal { return g.refusal.Load() }

// comment formats the refusal as YAML comments.
func (r *Refusal) comment() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# A newer configuration was refused at %s, so the old one below stays in force. Its mistakes:\n", r.At.UTC().Format(time.RFC3339))
	for line := range strings.SplitSeq(r.Err.Error(), "\n") {
		// Control characters, such as line breaks, could end the comment.
		line = strings.Map(func(c rune) rune {
			if !unicode.IsPrint(c) {
				return ' '
			}
			return c
		}, line)
		fmt.Fprintf(&b, "#   %s\n", line)
	}
	return b.Bytes()
}
