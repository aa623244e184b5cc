package faults

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrRefused means that all workers are busy and the queue is full. No work is done.
	ErrRefused = errors.New("all workers are busy and the queue is full")
	// ErrDropped means that the deadline had passed when the job's turn came, or when its place was needed. No work is
	// done.
	ErrDropped = errors.New("the deadline passed in the queue")
)

// Job is one piece of work.
type Job struct {
	// Service is how long it occupies a worker. 0 or less takes no time once its turn comes.
	Service time.Duration
	// Deadline drops the job if it has passed when the job's turn comes, or when the line is full and another job
	// needs the place. Zero means that it is never dropped.
	Deadline time.Time
	// Done, unless nil, is called when the job has been served, whether or not its caller still waits, and
	// before Do returns to one that does. It must be quick and must not use the Queue.
	Done func()
}

// Stats counts what became of the jobs of a [Queue]. All but the first two only grow.
type Stats struct {
	Busy    int    `json:"busy"`    // workers at work now
	Queued  int    `json:"queued"`  // jobs waiting now
	Served  uint64 `json:"served"`  // jobs done
	Wasted  uint64 `json:"wasted"`  // those of them that were done for a caller who had gone
	Dropped uint64 `json:"dropped"` // jobs whose deadline had passed when their turn came, or when their place was needed
	Refused uint64 `json:"refused"` // jobs that found the queue full
}

// Queue is a line of jobs in front of a number of workers, first come, first served.
//
// It does what real services do and clients forget: a job whose caller has given up stays in the line, and
// occupies a worker for its whole service time. Only a [Job.Deadline] spares that work.
//
// It costs one timer for each job at work and no goroutine, and starting or ending a job takes constant time, but
// for the search for passed deadlines in a full line.
// It is safe for concurrent use.
type Queue struct {
	capacity func() Capacity

	mu      sync.Mutex
	waiting []*job
	soonest time.Time // no deadline in the line is before it; zero if there is none
	stats   Stats
}

// job is a Job in the line. Its caller waits for done; err is set before.
type job struct {
	Job
	caller context.Context
	done   chan struct{}
	err    error
}

func (j *job) expired(now time.Time) bool { return !j.Deadline.IsZero() && !now.Before(j.Deadline) }

// NewQueue returns a Queue that asks for its capacity whenever a job comes or goes and at [Queue.Wake], so that a change
// takes effect without losing what runs or waits; [Capacity.ServiceTime] is for the caller to put into the job. It asks
// under a lock: capacity must be quick and must not use the Queue.
func NewQueue(capacity func() Capacity) *Queue {
	return &Queue{capacity: capacity}
}

// Do puts j in the line and waits until it is served. It returns [ErrRefused] or [ErrDropped] when j is not to be
// served, and the cause of ctx when the caller left first: the job goes on without it.
func (q *Queue) Do(ctx context.Context, j Job) error {
	entry := &job{Job: j, caller: ctx, done: make(chan struct{})}
	if !q.enter(entry) {
		return ErrRefused
	}
	select {
	case <-entry.done:
		return entry.err
	default:
	}
	select {
	case <-entry.done:
		return entry.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Wake gives work to the workers that a change of the capacity has added. Without it those who wait would wait for the
// next job that comes or goes.
func (q *Queue) Wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dispatch(q.capacity())
}

// Stats are the counts at this moment.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	stats := q.stats
	stats.Queued = len(q.waiting)
	return stats
}

func (q *Queue) enter(entry *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.capacity()
	q.dispatch(c) // who waits goes before who comes
	if !q.room(c) {
		q.purge()
	}
	if !q.room(c) {
		q.stats.Refused++
		return false
	}
	q.wait(entry)
	q.dispatch(c)
	return true
}

// room tells whether one more job may come.
func (q *Queue) room(c Capacity) bool { return q.free(c) || len(q.waiting) < c.Queue }

func (q *Queue) free(c Capacity) bool { return c.Workers == 0 || q.stats.Busy < c.Workers }

// wait puts j at the end of the line. The caller holds the lock.
func (q *Queue) wait(j *job) {
	q.waiting = append(q.waiting, j)
	if !j.Deadline.IsZero() && (q.soonest.IsZero() || j.Deadline.Before(q.soonest)) {
		q.soonest = j.Deadline
	}
}

// purge drops the jobs whose deadline has passed, so that they hold no place that others could use. The caller holds
// the lock.
func (q *Queue) purge() {
	now := time.Now()
	if q.soonest.IsZero() || now.Before(q.soonest) {
		return // under overload this is asked at every arrival
	}
	all := q.waiting
	q.waiting, q.soonest = nil, time.Time{}
	for _, j := range all {
		if j.expired(now) {
			q.drop(j)
		} else {
			q.wait(j)
		}
	}
}

// drop ends a job that is not done. The caller holds the lock.
func (q *Queue) drop(j *job) {
	q.stats.Dropped++
	j.err = ErrDropped
	close(j.done)
}

// dispatch gives work to every free worker. The caller holds the lock.
func (q *Queue) dispatch(c Capacity) {
	for len(q.waiting) > 0 && q.free(c) {
		next := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		switch {
		case next.expired(time.Now()):
			q.drop(next)
		case next.Service <= 0:
			q.serve(next)
		default:
			q.stats.Busy++
			time.AfterFunc(next.Service, func() { q.finish(next) })
		}
	}
}

func (q *Queue) finish(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stats.Busy--
	q.serve(j)
	q.dispatch(q.capacity())
}

// serve ends a job that was done. The caller holds the lock.
func (q *Queue) serve(j *job) {
	q.stats.Served++
	if j.caller.Err() != nil {
		q.stats.Wasted++
	}
	if j.Done != nil {
		j.Done()
	}
	close(j.done)
}
