package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// progressBar is a progress bar on w. It shows nothing if w is not a terminal.
type progressBar struct {
	w     io.Writer
	mu    sync.Mutex
	shown int
}

const barWidth = 40

func newProgressBar(w io.Writer) *progressBar {
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return &progressBar{w: w, shown: -1}
		}
	}
	return &progressBar{w: nil}
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
	full := n * barWidth / 100
	fmt.Fprintf(b.w, "\r[%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), n)
}

// clear removes the bar.
func (b *progressBar) clear() {
	if b.w != nil && b.shown >= 0 {
		fmt.Fprintf(b.w, "\r%s\r", strings.Repeat(" ", barWidth+8))
	}
}
