package faults

import "sync"

// attempts counts how often each id was seen. It remembers only the newest ids: a forgotten id
// starts again at 1. It stores ids as they are. Limit the length of ids that come from outside.
//
// It is safe for concurrent use.
type attempts struct {
	mu     sync.Mutex
	limit  int
	counts map[string]int
	ids    []string // a ring once it is full
	oldest int
}

// newAttempts returns attempts that remember limit ids, at least one.
func newAttempts(limit int) *attempts {
	return &attempts{limit: max(limit, 1), counts: map[string]int{}}
}

// next counts an attempt of id and returns its number, from 1.
func (a *attempts) next(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, known := a.counts[id]; !known {
		a.remember(id)
	}
	a.counts[id]++
	return a.counts[id]
}

func (a *attempts) remember(id string) {
	if len(a.ids) < a.limit {
		a.ids = append(a.ids, id)
		return
	}
	delete(a.counts, a.ids[a.oldest])
	a.ids[a.oldest] = id
	a.oldest = (a.oldest + 1) % a.limit
}
