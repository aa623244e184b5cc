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

// Refusal is a configuration that was not taken.
type Refusal struct {
	At  time.Time
	Err error
}

// Reload puts the configuration that load gives in the place of the present one,
// for new calls; calls in flight end under the one that they began with. A
// circuit or a budget whose own settings, policy and upstream are the same keeps
// its state. If load fails, or the configuration is wrong, the present one goes
// on and [Gateway.Refused] tells why until a Reload succeeds.
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

// Refused is why the last [Gateway.Reload] changed nothing, nil when it did.
func (g *Gateway) Refused() *Refusal { return g.refusal.Load() }

// comment tells of the refusal in YAML that says nothing else.
func (r *Refusal) comment() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# At %s a newer configuration was refused; this is the old one, which goes on:\n", r.At.UTC().Format(time.RFC3339))
	for line := range strings.SplitSeq(r.Err.Error(), "\n") {
		// Nothing in it may end the comment.
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
