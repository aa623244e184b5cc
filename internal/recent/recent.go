// Package recent keeps what belongs to the newest of many keys, so that keys from outside cannot
// fill the memory.
package recent

import "sync"

// Map is a map that keeps only the newest keys. It stores keys as they are: limit the length of
// those that come from outside. It is not safe for concurrent use.
type Map[V any] struct {
	limit  int
	values map[string]V
	keys   []string // a ring once it is full
	oldest int
	forgot bool
}

// NewMap returns a map that keeps limit keys, at least one.
func NewMap[V any](limit int) *Map[V] {
	return &Map[V]{limit: max(limit, 1), values: map[string]V{}}
}

// Get returns the value of a key, and whether it is kept.
func (m *Map[V]) Get(key string) (v V, ok bool) {
	v, ok = m.values[key]
	return v, ok
}

// Put sets the value of a key. A new key is the newest one, and the map forgets the oldest if it
// has too many.
func (m *Map[V]) Put(key string, v V) {
	_, known := m.values[key]
	m.values[key] = v
	switch {
	case known:
	case len(m.keys) < m.limit:
		m.keys = append(m.keys, key)
	default:
		m.forgot = true
		delete(m.values, m.keys[m.oldest])
		m.keys[m.oldest] = key
		m.oldest = (m.oldest + 1) % m.limit
	}
}

// All returns the values, in any order.
func (m *Map[V]) All() []V {
	all := make([]V, 0, len(m.values))
	for _, v := range m.values {
		all = append(all, v)
	}
	return all
}

// Forgot reports whether the map has forgotten a key.
func (m *Map[V]) Forgot() bool { return m.forgot }

// Counter counts how often each key was seen. A forgotten key starts again at 1. It is safe for
// concurrent use.
type Counter struct {
	mu     sync.Mutex
	counts *Map[int]
}

// NewCounter returns a counter that remembers limit keys, at least one.
func NewCounter(limit int) *Counter { return &Counter{counts: NewMap[int](limit)} }

// Next counts a key and returns its number, from 1.
func (c *Counter) Next(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, _ := c.counts.Get(key)
	c.counts.Put(key, n+1)
	return n + 1
}
