package page

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"
)

const (
	keptMarks = 64
	// A longer document counts as unknown faults, because every page gets all marks when it opens.
	longestMark = 8 << 10
	// The pages ask for the faults every three seconds. After a longer time without an answer it is
	// not known when they changed.
	marksGap = 6 * time.Second
)

// faultMark tells which faults are in force from when on.
type faultMark struct {
	At     float64         `json:"at"`     // in ms, on the clock of the events
	Faults json.RawMessage `json:"faults"` // null: not known
	Sick   int             `json:"sick,omitempty"`
	// Seen tells that they began then. Otherwise they may be older.
	Seen bool `json:"seen,omitempty"`

	at time.Time
}

// faultMarks remembers when which faults were in force, as far as pages have asked or changed them:
// a page that is opened later marks them on its time axis too.
type faultMarks struct {
	all   []faultMark // the oldest first
	sick  int
	heard time.Time // when they were last known; zero if they are not any more
}

// note adds a mark if the document differs from the last one. It is nil if flaky-server did not
// answer. set tells that a page has just put it in force.
func (m *faultMarks) note(document []byte, set bool) {
	now := time.Now()
	m.lapse(now)
	if len(document) > longestMark || !json.Valid(document) {
		document = nil
	}
	document = bytes.TrimSpace(document)
	seen := set || !m.heard.IsZero()
	m.heard = time.Time{}
	if len(document) > 0 {
		m.heard = now
	}
	m.add(faultMark{at: now, Faults: document, Sick: m.sick, Seen: seen && len(document) > 0})
}

// lapse adds a mark of unknown faults if nobody has asked for too long: somebody may have changed
// them elsewhere at any time since then.
func (m *faultMarks) lapse(now time.Time) {
	if m.heard.IsZero() || now.Sub(m.heard) < marksGap {
		return
	}
	m.add(faultMark{at: m.heard, Sick: m.sick})
	m.heard = time.Time{}
}

// noteSick adds a mark if another number of endpoints is sick.
func (m *faultMarks) noteSick(n int) {
	m.lapse(time.Now())
	m.sick = n
	if len(m.all) > 0 {
		last := m.all[len(m.all)-1]
		m.add(faultMark{at: time.Now(), Faults: last.Faults, Sick: n, Seen: len(last.Faults) > 0})
	}
}

func (m *faultMarks) add(mark faultMark) {
	if n := len(m.all); n > 0 && bytes.Equal(m.all[n-1].Faults, mark.Faults) && m.all[n-1].Sick == mark.Sick {
		return
	}
	m.all = append(m.all, mark)
	m.all = slices.Delete(m.all, 0, max(0, len(m.all)-keptMarks))
}

// at returns the marks for an event of this time, in ms.
func (m *faultMarks) at(now float64) []faultMark {
	m.lapse(time.Now())
	all := slices.Clone(m.all)
	for i := range all {
		all[i].At = now - float64(time.Since(all[i].at))/float64(time.Millisecond)
		if len(all[i].Faults) == 0 {
			all[i].Faults = json.RawMessage("null")
		}
	}
	return all
}
