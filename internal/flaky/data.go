package flaky

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

// processAnswer is the answer of GET /process.
type processAnswer struct {
	Status    string `json:"status"` // "ok"
	RequestID string `json:"requestId"`
	// the number of the attempt for that request id, from 1
	Attempt int `json:"attempt"`
	// the value of the X-Attempt-Count header
	AttemptHeader string `json:"attemptHeader,omitempty"`
	// the fault that this answer suffers
	Fault    faults.Fault `json:"fault,omitempty"`
	Instance string       `json:"instance,omitempty"`
}

// orderAnswer is the answer of POST /orders.
type orderAnswer struct {
	Order          string `json:"order"`
	RequestID      string `json:"requestId"` // of the attempt that took effect
	IdempotencyKey string `json:"idempotencyKey"`
	// the order had taken effect before; this repeats the first answer
	Replayed bool `json:"replayed"`
}

func (s *Server) process(w http.ResponseWriter, r *http.Request) {
	id, attempt, ok := s.arrive(w, r)
	if !ok {
		return
	}
	// The body is not used, but net/http notices that the caller has left only after the body was
	// read.
	if _, ok := read(w, r, maxBody); !ok {
		return
	}
	fate := s.work(r, s.next(r, id), nil)
	answer := processAnswer{
		Status: "ok", RequestID: id, Attempt: attempt, AttemptHeader: r.Header.Get("X-Attempt-Count"), Instance: s.options.Instance,
	}
	if fate.Fault != faults.FaultNone {
		answer.Fault = fate.Fault
	}
	s.answer(w, r, fate, http.StatusOK, answer)
}

func (s *Server) orders(w http.ResponseWriter, r *http.Request) {
	id, _, ok := s.arrive(w, r)
	if !ok {
		return
	}
	o := order{requestID: id, key: r.Header.Get("Idempotency-Key")}
	if len(o.key) > maxID {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("expected an Idempotency-Key of at most %d bytes", maxID))
		return
	}
	body, ok := read(w, r, maxBody)
	if !ok {
		return
	}
	if err := o.parse(body); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	o, err := s.ledger.arrive(o)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err.Error())
		return
	}

	drawn := s.next(r, id)
	answer := orderAnswer{Order: o.name, RequestID: id, IdempotencyKey: o.key}
	fate := s.work(r, drawn, func() {
		if drawn.TakesEffect() {
			answer = s.ledger.apply(o)
		}
	})
	s.answer(w, r, fate, http.StatusCreated, answer)
}

// order is one attempt at an order.
type order struct {
	name, requestID, key string
	// of the body, to tell a retry from another order under the same key
	fingerprint [sha256.Size]byte
	era         uint64 // the era of the ledger when it arrived
}

func (o *order) parse(body []byte) error {
	var fields struct {
		Order string `json:"order"`
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return errors.New(`expected a JSON object such as {"order": "o-1", "item": "tea"}`)
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return fmt.Errorf(`expected a JSON object such as {"order": "o-1", "item": "tea"}: %w`, err)
	}
	if len(fields.Order) > maxID {
		return fmt.Errorf("expected an order of at most %d bytes, got %d", maxID, len(fields.Order))
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return fmt.Errorf("expected JSON: %w", err)
	}
	o.name = fields.Order
	o.fingerprint = sha256.Sum256(compact.Bytes())
	return nil
}

// arrive counts an attempt and returns its request id and number. If the request is not valid, it
// answers and returns false.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request) (id string, attempt int, ok bool) {
	id, attempt, err := s.identify(r.Header)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return "", 0, false
	}
	w.Header().Set("X-Request-Id", id)
	return id, attempt, true
}

// identify counts an attempt with the header h, and returns its request id and number.
func (s *Server) identify(h http.Header) (id string, attempt int, err error) {
	s.ledger.receive()
	id = h.Get("X-Request-Id")
	if len(id) > maxID {
		return "", 0, fmt.Errorf("expected an X-Request-Id of at most %d bytes", maxID)
	}
	if id == "" {
		id = rand.Text()
	}
	return id, s.attempts.Next(id), nil
}

// next decides the fate of an arrival.
func (s *Server) next(r *http.Request, id string) faults.Fate {
	fate := s.faults.Next(id)
	if r.Context().Value(sick{}) != nil {
		fate.Fault, fate.Status, fate.RetryAfter, fate.Latency, fate.Service = faults.FaultError, http.StatusServiceUnavailable, "", 0, 0
	}
	return fate
}

// work spends the time that this arrival takes, and returns its final fate. It aborts the handler
// if the caller leaves. done is called even then, when a worker has served the job.
func (s *Server) work(r *http.Request, fate faults.Fate, done func()) faults.Fate {
	fate, stayed := s.spend(r.Context(), r.URL.Path, fate, fate.Deadline(r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms")), done)
	if !stayed {
		abort()
	}
	return fate
}

// spend is work for an arrival at path whose caller waits until deadline. stayed is false if the
// caller has left.
func (s *Server) spend(ctx context.Context, path string, fate faults.Fate, deadline time.Time, done func()) (final faults.Fate, stayed bool) {
	err := s.queue.Do(ctx, faults.Job{Service: fate.Service, Deadline: deadline, Done: done})
	left := false
	switch {
	case errors.Is(err, faults.ErrRefused):
		fate.Fault, fate.Status, fate.Latency = faults.FaultOverload, http.StatusServiceUnavailable, 0
	case errors.Is(err, faults.ErrDropped):
		fate.Fault, fate.Status, fate.Latency = faults.FaultDropped, http.StatusGatewayTimeout, 0
	case err != nil:
		left = true
	}
	if s.options.Observe != nil {
		s.options.Observe(ctx, fate)
	}
	s.options.Logger.LogAttrs(ctx, slog.LevelDebug, lineArrival,
		slog.String(logPath, path), slog.Uint64(logArrival, fate.Arrival), slog.String(logFault, string(fate.Fault)))
	// A caller that left gets no answer, although its job is still in the queue.
	return fate, !left && faults.Pause(ctx, fate.Latency)
}
