package faults

import "sync"

// Attempts counts how often each id was seen. It remembers only the newest ids: a forgotten id
// starts again at 1. It stores ids as they are. Limit the length of ids that come from outside.
//
// It is safe for concurrent use.
type Attempts struct {
	mu     sync.Mutex
	limit  int
	counts map[string]int
	ids    []string // a ring once it is full
	oldest int
}

// NewAttempts returns Attempts that remember limit ids, at least one.
func NewAttempts(limit int) *Attempts {
	return &Attempts{limit: max(limit, 1), counts: map[string]int{}}
}

// Next counts an attempt of id and returns its number, from 1.
func (a *Attempts) Next(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.counts[id]; !known {
		a.remember(id)
	}
	a.counts[id]++
	return a.counts[id]
}

func (a *Attempts) remember(id string) {
	if len(a.ids) < a.limit {
		a.ids = append(a.ids, id)
		return
	}
	delete(a.counts, a.ids[a.oldest])
	a.ids[a.oldest] = id
	a.oldest = (a.oldest + 1) % a.limit
}
