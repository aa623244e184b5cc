package flaky

import (
	"cmp"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
)

// errKeyReused is what the IETF draft on the Idempotency-Key header field (section 2.7) wants to be a 422.
var errKeyReused = errors.New("this Idempotency-Key was used before, with another body")

// Effect is what became of one order.
type Effect struct {
	Order          string `json:"order"`
	RequestID      string `json:"requestId"`      // of its first application, or of its first arrival until then
	IdempotencyKey string `json:"idempotencyKey"` // of the same
	Applied        int    `json:"applied"`        // 0 while nothing was done for it, above 1 a double effect
	Attempts       int    `json:"attempts"`       // how often it arrived, whatever the answer

	first uint64 // when it arrived first, relative to others
}

// ledger keeps which orders came and took effect, and the answers of idempotency keys. It is safe for concurrent use.
type ledger struct {
	limit int

	mu       sync.Mutex
	era      uint64 // how often it was reset
	received uint64
	seen     uint64 // orders there ever were
	orders   *recent[*Effect]
	keys     *recent[*keyed]
}

// keyed is what is known of an idempotency key.
type keyed struct {
	first  order
	answer *ordered // nil until it took effect
}

func newLedger(limit int) *ledger {
	l := &ledger{limit: limit}
	l.reset()
	return l
}

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.era++
	l.received, l.seen = 0, 0
	l.orders = newRecent[*Effect](l.limit)
	l.keys = newRecent[*keyed](l.limit)
}

func (l *ledger) receive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received++
}

// arrive counts an attempt and returns it as part of this ledger, with an order made up if it has none. It fails when
// the key belongs to something else.
func (l *ledger) arrive(o order) (order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.key != "" {
		if k, known := l.keys.values[o.key]; known {
			if k.first.fingerprint != o.fingerprint {
				return order{}, errKeyReused
			}
			o.name = k.first.name
		}
	}
	if o.name == "" {
		o.name = rand.Text()
	}
	o.era = l.era
	l.key(o)
	l.effect(o).Attempts++
	return o, nil
}

// apply makes o take effect, once for each key, and returns its answer. What arrived before a reset is answered, but
// leaves no trace: the ledger is that of another experiment.
func (l *ledger) apply(o order) ordered {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer := ordered{Order: o.name, RequestID: o.requestID, IdempotencyKey: o.key}
	if o.era != l.era {
		return answer
	}
	k := l.key(o)
	if k.answer != nil {
		again := *k.answer
		again.Replayed = true
		return again
	}
	e := l.effect(o)
	if e.Applied++; e.Applied == 1 {
		e.RequestID, e.IdempotencyKey = o.requestID, o.key
	}
	k.answer = &answer
	return answer
}

// key is what is known of o's key, from now on at least o. Without a key nothing is kept.
func (l *ledger) key(o order) *keyed {
	k, known := l.keys.values[o.key]
	if !known {
		k = &keyed{first: o}
		if o.key != "" {
			l.keys.put(o.key, k)
		}
	}
	return k
}

func (l *ledger) effect(o order) *Effect {
	e, known := l.orders.values[o.name]
	if !known {
		l.seen++
		e = &Effect{Order: o.name, RequestID: o.requestID, IdempotencyKey: o.key, first: l.seen}
		l.orders.put(o.name, e)
	}
	return e
}

// effects are the orders that arrived, whether or not they took effect, in the order in which they first did.
func (l *ledger) effects() (effects []Effect, received uint64, truncated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	effects = []Effect{} // [] in JSON, not null
	for _, e := range l.orders.values {
		effects = append(effects, *e)
	}
	slices.SortFunc(effects, func(a, b Effect) int { return cmp.Compare(a.first, b.first) })
	return effects, l.received, l.orders.forgot || l.keys.forgot
}

// recent is a map that keeps the limit newest keys.
type recent[V any] struct {
	limit  int
	values map[string]V
	keys   []string // a ring once it is full
	oldest int
	forgot bool
}

func newRecent[V any](limit int) *recent[V] {
	return &recent[V]{limit: limit, values: map[string]V{}}
}

// put adds a key that is not there.
func (m *recent[V]) put(key string, v V) {
	m.values[key] = v
	if len(m.keys) < m.limit {
		m.keys = append(m.keys, key)
		return
	}
	m.forgot = true
	delete(m.values, m.keys[m.oldest])
	m.keys[m.oldest] = key
	m.oldest = (m.oldest + 1) % m.limit
}
