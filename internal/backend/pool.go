package backend

import "sync"

// Pool runs functions on goroutines that it keeps for later ones. A simulated call needs a deep
// stack, and a new goroutine would copy its stack several times until it is large enough. The zero
// value is ready to use.
type Pool struct {
	running sync.WaitGroup
	mu      sync.Mutex
	idle    []chan func() // the last one has worked last
}

// Go calls f on a goroutine of its own. Functions that run may call Go too.
func (p *Pool) Go(f func()) {
	p.running.Add(1)
	p.mu.Lock()
	last := len(p.idle) - 1
	if last < 0 {
		p.mu.Unlock()
		go p.work(f)
		return
	}
	next := p.idle[last]
	p.idle = p.idle[:last]
	p.mu.Unlock()
	next <- f
}

func (p *Pool) work(f func()) {
	for next := make(chan func(), 1); f != nil; f = <-next {
		f()
		p.mu.Lock()
		p.idle = append(p.idle, next)
		p.mu.Unlock()
		p.running.Done()
	}
}

// Wait returns when all functions have returned, and ends the goroutines. Afterwards the Pool may
// be used again.
func (p *Pool) Wait() {
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, next := range p.idle {
		next <- nil
	}
	p.idle = nil
}
