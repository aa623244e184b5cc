package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
)

// BenchmarkWatchedPages measures what fifty open live pages cost a client that gets 2,000 calls a
// second. Clients take turns, with the pages and without any, for ten seconds each. It prints the
// rows of the table in docs/benchmarks.md: processor time of the client's process for a second.
// The pages' readers, the callers and the upstream are in other processes.
func BenchmarkWatchedPages(b *testing.B) {
	const perSecond, pages, callers, seconds = 2000, 50, 64, 10
	rounds := number(b, roundsVariable, 5)
	upstream, _ := startAnswers(b, 200)
	var all []priced
	for _, program := range clients(b) {
		all = append(all, startClient(b, program, upstream))
	}
	type figures struct{ none, open, updates, size []float64 }
	measured := make([]figures, len(all))
	for i, again := 0, 0; i < (rounds+1)*len(all); i++ {
		p, m := all[i%len(all)], &measured[i%len(all)]
		l := newLoad(b, p, callers, false)
		failed := 0
		turn := func() float64 {
			l.open(perSecond/2, perSecond) // what the turn before has left is over
			used := p.used(b)
			_, n := l.open(perSecond*seconds, perSecond)
			failed += n
			return float64((p.used(b) - used).Microseconds()) / 1000 / seconds
		}
		none := turn()
		readers := openPages(b, p.admin, pages)
		open := turn()
		events, size := readers.close()
		l.stop()
		if i < len(all) {
			continue // the first round warms everything up
		}
		if failed > 0 { // a refused call costs less than others
			if again++; again > rounds {
				b.Fatalf("%s: %d calls failed, again and again", p.name, failed)
			}
			b.Logf("%s: %d calls failed, once more", p.name, failed)
			i--
			continue
		}
		m.none, m.open = append(m.none, none), append(m.open, open)
		m.updates, m.size = append(m.updates, events/pages/(seconds+0.5)), append(m.size, size/events)
	}
	fmt.Printf("\n| processor time of a second, ms: median of %d (least, most) | no page | fifty pages | they add | updates a second | bytes of one |\n|---|---|---|---|---|---|\n", rounds)
	for i, p := range all {
		m := &measured[i]
		added := make([]float64, len(m.none))
		for j := range added {
			added[j] = m.open[j] - m.none[j]
		}
		shown := func(v []float64) string {
			slices.Sort(v)
			return fmt.Sprintf("%.1f (%.1f, %.1f)", v[len(v)/2], v[0], v[len(v)-1])
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", p.name, shown(m.none), shown(m.open), shown(added), shown(m.updates), shown(m.size))
	}
}

// pageReaders read the events of open live pages.
type pageReaders struct {
	leave   context.CancelFunc
	reading sync.WaitGroup
	mu      sync.Mutex
	events  float64
	size    float64 // of all of them
}

// openPages opens live pages and returns when each has had its first event.
func openPages(b *testing.B, admin string, pages int) *pageReaders {
	ctx, cancel := context.WithCancel(b.Context())
	p := &pageReaders{leave: cancel}
	for range pages {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, admin+"/api/live", nil)
		if err != nil {
			b.Fatal(err)
		}
		resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(r) // not shared, as those of browsers
		if err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewReaderSize(resp.Body, 4<<20)
		if err := nextEvent(lines, nil); err != nil {
			b.Fatal(err)
		}
		p.reading.Go(func() {
			defer func() { _ = resp.Body.Close() }()
			for size := 0; nextEvent(lines, &size) == nil; {
				p.mu.Lock()
				p.events++
				p.size += float64(size)
				p.mu.Unlock()
			}
		})
	}
	return p
}

// nextEvent reads an event with its data. It sets size unless that is nil.
func nextEvent(lines *bufio.Reader, size *int) error {
	for n, data := 0, false; ; {
		line, err := lines.ReadSlice('\n')
		if err != nil {
			return err
		}
		n += len(line)
		switch {
		case bytes.HasPrefix(line, []byte("data: ")):
			data = true
		case len(line) == 1 && data:
			if size != nil {
				*size = n
			}
			return nil
		}
	}
}

// close ends the reading and returns the number of events and the bytes of all of them.
func (p *pageReaders) close() (events, size float64) {
	p.leave()
	p.reading.Wait()
	return p.events, p.size
}
