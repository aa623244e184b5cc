package rival

import (
	"context"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
)

// round makes one attempt, or the attempts of a hedge, and returns the outcome that decides.
func (k *call) round() *outcome {
	most, delay := k.hedges()
	if most == 1 {
		k.made++
		retry := k.again
		k.again = false
		e := k.try(k.ctx, k.made, retry)
		k.record(e)
		return e.outcome
	}
	h := hedge{call: k, most: most, results: make(chan end)}
	var ctx context.Context
	ctx, h.cancel = context.WithCancel(k.ctx)
	defer h.cancel()
	// Two attempts in the same nanosecond would have no order.
	h.delay = max(delay, time.Nanosecond)
	h.timer = time.NewTimer(h.delay)
	defer h.timer.Stop()
	h.begin(ctx)
	for {
		select {
		case e := <-h.results:
			if o, done := h.ended(ctx, e); done {
				return o
			}
		case <-h.timer.C:
			if h.sent < h.most && k.takeRetry(time.Now(), &outcome{kind: timedOut}) {
				h.begin(ctx)
			}
		}
	}
}

// hedges returns the most attempts of one round, and the time between two.
func (k *call) hedges() (most int, delay time.Duration) {
	p := k.client.policy
	if p.Hedge == (foreign.Hedge{}) {
		return 1, 0
	}
	most, delay = p.Hedge.MaxAttempts, p.Hedge.Delay
	if p.Hedge.OnTryTimeout {
		delay = p.TryTimeout
		if left := k.most() - k.made; most == 0 || left < most {
			most = left
		}
	}
	return max(1, most), delay
}

// hedge is one round.
type hedge struct {
	*call
	most    int
	sent    int
	running int
	results chan end
	cancel  context.CancelFunc
	delay   time.Duration
	timer   *time.Timer
}

func (h *hedge) begin(ctx context.Context) {
	h.made++
	h.sent++
	h.running++
	h.timer.Reset(h.delay)
	number, retry := h.made, h.again
	h.again = false
	go func() { h.results <- h.try(ctx, number, retry) }()
}

// ended returns the outcome of the round if an attempt has decided it. The others are then
// canceled.
func (h *hedge) ended(ctx context.Context, e end) (o *outcome, done bool) {
	h.running--
	h.record(e)
	p := h.client.policy
	if e.in(p.Retry.On) && e.kind != tooLate {
		// The next one is sent at once (gRPC's A6; Polly too). Envoy waits for the others.
		if h.sent < h.most && !p.Hedge.OnTryTimeout && h.takeRetry(time.Now(), e.outcome) {
			h.begin(ctx)
		}
		if h.running > 0 {
			h.client.mu.Lock()
			h.client.budget.failed(e.outcome)
			h.client.mu.Unlock()
			return nil, false
		}
	}
	h.cancel()
	for ; h.running > 0; h.running-- {
		h.record(<-h.results)
	}
	return e.outcome, true
}
