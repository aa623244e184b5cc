package flaky

import (
	"cmp"
	"crypto/rand"
	"errors"
	"slices"
	"sync"

	"github.com/rebound-dev/rebound/internal/recent"
)

// errKeyReused leads to a 422, as the IETF draft on the Idempotency-Key header field requires
// (section 2.7).
var errKeyReused = errors.New("this Idempotency-Key was used before with a different body")

// Effect is the ledger's entry for one order.
type Effect struct {
	Order string `json:"order"`
	// of the attempt that was applied first, until then of the first attempt
	RequestID      string `json:"requestId"`
	IdempotencyKey string `json:"idempotencyKey"` // of the same attempt
	// 0: had no effect yet; above 1: took effect more than once
	Applied  int `json:"applied"`
	Attempts int `json:"attempts"` // how often it arrived, whatever the answer was

	first uint64 // its place in the order of arrival
}

// ledger records which orders arrived and took effect, and the answers for idempotency keys. It is
// safe for concurrent use.
type ledger struct {
	limit int

	mu       sync.Mutex
	era      uint64 // how often the ledger was reset
	received uint64
	seen     uint64 // orders seen since the last reset
	orders   *recent.Map[*Effect]
	keys     *recent.Map[*keyState]
}

// keyState is the state of an idempotency key.
type keyState struct {
	first  order
	answer *orderAnswer // nil until the order took effect
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
	l.orders = recent.NewMap[*Effect](l.limit)
	l.keys = recent.NewMap[*keyState](l.limit)
}

func (l *ledger) receive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.received++
}

// arrive counts an attempt and returns it with the ledger's era, and with a generated name if it
// has none. It fails if the key was used with a different body.
func (l *ledger) arrive(o order) (order, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.key != "" {
		if k, known := l.keys.Get(o.key); known {
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

// apply makes o take effect, once per key, and returns its answer. An order that arrived before a
// reset is answered but not recorded, because it belongs to an earlier experiment.
func (l *ledger) apply(o order) orderAnswer {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer := orderAnswer{Order: o.name, RequestID: o.requestID, IdempotencyKey: o.key}
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

// key returns the state of o's key, and adds it if it is new. Without a key nothing is stored.
func (l *ledger) key(o order) *keyState {
	k, known := l.keys.Get(o.key)
	if !known {
		k = &keyState{first: o}
		if o.key != "" {
			l.keys.Put(o.key, k)
		}
	}
	return k
}

func (l *ledger) effect(o order) *Effect {
	e, known := l.orders.Get(o.name)
	if !known {
		l.seen++
		e = &Effect{Order: o.name, RequestID: o.requestID, IdempotencyKey: o.key, first: l.seen}
		l.orders.Put(o.name, e)
	}
	return e
}

// effects returns the orders that arrived, in order of first arrival, whether or not they took
// effect.
func (l *ledger) effects() (effects []Effect, received uint64, truncated bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	effects = []Effect{} // so that JSON has [] instead of null
	for _, e := range l.orders.All() {
		effects = append(effects, *e)
	}
	slices.SortFunc(effects, func(a, b Effect) int { return cmp.Compare(a.first, b.first) })
	return effects, l.received, l.orders.Forgot() || l.keys.Forgot()
}
