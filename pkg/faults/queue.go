package faults

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrRefused means that all workers are busy and the queue is full. The job was not done.
	ErrRefused = errors.New("all workers are busy and the queue is full")
	// ErrDropped means that the deadline had passed when the job's turn came, or when another job
	// needed its place. The job was not done.
	ErrDropped = errors.New("the deadline passed in the queue")
)

// Job is one piece of work.
type Job struct {
	// Service is how long the job occupies a worker. 0 or less takes no time.
	Service time.Duration
	// Deadline drops the job if it has passed when the job's turn comes, or when the queue is full
	// and another job needs the place. A zero Deadline never drops the job.
	Deadline time.Time
	// Done, if not nil, is called when the job has been served, even if its caller has left. If the
	// caller waits, Done is called before Do returns. Done must be quick and must not use the
	// Queue.
	Done func()
}

// Stats counts the jobs of a [Queue]. All but Busy and Queued only grow.
type Stats struct {
	Busy    int    `json:"busy"`    // workers that are busy now
	Queued  int    `json:"queued"`  // jobs that wait now
	Served  uint64 `json:"served"`  // jobs done
	Wasted  uint64 `json:"wasted"`  // jobs done whose caller had left
	Dropped uint64 `json:"dropped"` // jobs dropped because their deadline had passed
	Refused uint64 `json:"refused"` // jobs that found the queue full
}

// Queue is a first-come, first-served queue in front of a number of workers.
//
// It works like a real service: a job whose caller has given up stays in the queue, and occupies a
// worker for its whole service time. Only a [Job.Deadline] avoids that work.
//
// A running job costs one timer and no goroutine. Starting or ending a job takes constant time,
// except for the search for passed deadlines in a full queue. A Queue is safe for concurrent use.
type Queue struct {
	capacity func() Capacity

	mu      sync.Mutex
	waiting []*job
	soonest time.Time // no later than the first deadline in the queue; zero if there is none
	stats   Stats
}

// job is a Job in the queue. Its caller waits for done; err is set before done is closed.
type job struct {
	Job
	caller context.Context
	done   chan struct{}
	err    error
}

func (j *job) expired(now time.Time) bool { return !j.Deadline.IsZero() && !now.Before(j.Deadline) }

// NewQueue returns a Queue that calls capacity when a job arrives or ends and in [Queue.Wake]. A
// change of the capacity takes effect without losing running or waiting jobs.
// [Capacity.ServiceTime] has no effect here: set [Job.Service] from it. The Queue holds a lock
// while it calls capacity, so capacity must be quick and must not use the Queue.
func NewQueue(capacity func() Capacity) *Queue {
	return &Queue{capacity: capacity}
}

// Do queues j and waits until it is served. It returns [ErrRefused] or [ErrDropped] if j will not
// be served, and the cause of ctx if ctx ends first. In that case j stays in the Queue.
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

// Wake starts waiting jobs on workers that a change of the capacity has added. Without Wake, they
// start when the next job arrives or ends.
func (q *Queue) Wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dispatch(q.capacity())
}

// Stats returns the current counts.
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
	q.dispatch(c) // queued jobs run before new arrivals
	if !q.room(c) {
		q.purge()
	}
	if !q.room(c) {
		q.stats.Refused++
		return false
	}
	if q.free(c) {
		q.start(entry) // nobody waits, or dispatch would have taken the worker
	} else {
		q.wait(entry)
	}
	return true
}

// room reports whether there is room for one more job.
func (q *Queue) room(c Capacity) bool { return q.free(c) || len(q.waiting) < c.Queue }

func (q *Queue) free(c Capacity) bool { return c.Workers == 0 || q.stats.Busy < c.Workers }

// wait appends j to the queue. The caller holds the lock.
func (q *Queue) wait(j *job) {
	q.waiting = append(q.waiting, j)
	if !j.Deadline.IsZero() && (q.soonest.IsZero() || j.Deadline.Before(q.soonest)) {
		q.soonest = j.Deadline
	}
}

// purge drops the jobs whose deadline has passed, so that others can have their places. The caller
// holds the lock.
func (q *Queue) purge() {
	now := time.Now()
	if q.soonest.IsZero() || now.Before(q.soonest) {
		return // a quick exit: under overload, every arrival calls purge
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

// drop ends a job without doing it. The caller holds the lock.
func (q *Queue) drop(j *job) {
	q.stats.Dropped++
	j.err = ErrDropped
	close(j.done)
}

// dispatch starts a job on every free worker. The caller holds the lock.
func (q *Queue) dispatch(c Capacity) {
	for len(q.waiting) > 0 && q.free(c) {
		next := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.start(next)
	}
}

// start gives j to a free worker. The caller holds the lock.
func (q *Queue) start(j *job) {
	switch {
	case j.expired(time.Now()):
		q.drop(j)
	case j.Service <= 0:
		q.serve(j)
	default:
		q.stats.Busy++
		time.AfterFunc(j.Service, func() { q.finish(j) })
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
