package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/rebound-dev/rebound/internal/cli"
)

// progressBar is a progress bar on w. It shows nothing if w is not a terminal.
type progressBar struct {
	w     io.Writer
	width int // of the bar, in characters
	mu    sync.Mutex
	shown int
}

// The width of the bar, unless the terminal is too narrow, and of the text around it.
const barWidth, aroundBar = 40, 8

func newProgressBar(p cli.Program) *progressBar {
	if columns := cli.Columns(p.Stderr); columns > 0 {
		return &progressBar{w: p.Stderr, width: widthOfBar(columns), shown: -1}
	}
	return &progressBar{w: nil}
}

// widthOfBar returns the width of a bar that a terminal of so many columns does not wrap.
func widthOfBar(columns int) int {
	return max(0, min(barWidth, columns-aroundBar-1))
}

// set shows a share from 0 to 1. It is safe for concurrent use.
func (b *progressBar) set(done float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := int(done * 100)
	if b.w == nil || n == b.shown {
		return
	}
	b.shown = n
	full := n * b.width / 100
	fmt.Fprintf(b.w, "\r[%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(".", b.width-full), n)
}

// clear removes the bar.
func (b *progressBar) clear() {
	if b.w != nil && b.shown >= 0 {
		fmt.Fprintf(b.w, "\r%s\r", strings.Repeat(" ", b.width+aroundBar))
	}
}
