package reread_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/reread"
	"github.com/rebound-dev/rebound/internal/testkit/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// source is what a store reads. An empty value is an error.
type source struct {
	mu    sync.Mutex
	value string
	reads int
	slow  time.Duration
	said  []string
}

func (s *source) set(value string) { s.mu.Lock(); defer s.mu.Unlock(); s.value = value }

func (s *source) read(old *string) (*string, error) {
	s.mu.Lock()
	value, slow := s.value, s.slow
	s.reads++
	s.mu.Unlock()
	time.Sleep(slow)
	switch {
	case value == "" || value[0] == '!':
		return nil, errors.New("wrong" + value)
	case old != nil && *old == value:
		return old, nil
	}
	return &value, nil
}

func (s *source) failed(err error) { s.said = append(s.said, err.Error()) }

// Each step sets the value, looks a second later, and names the value in use and what was reported.
func TestLook(t *testing.T) {
	type step struct{ set, want, said string }
	for name, steps := range map[string][]step{
		"a change":                      {{"b", "b", "[]"}, {"b", "b", "[]"}, {"c", "c", "[]"}},
		"wrong for a moment":            {{"", "a", "[]"}, {"b", "b", "[]"}, {"", "b", "[]"}, {"c", "c", "[]"}},
		"wrong for longer":              {{"", "a", "[]"}, {"", "a", "[wrong]"}, {"", "a", "[wrong]"}, {"b", "b", "[wrong]"}},
		"wrong in another way":          {{"", "a", "[]"}, {"", "a", "[wrong]"}, {"!", "a", "[wrong]"}, {"!", "a", "[wrong wrong!]"}},
		"another error for a moment":    {{"", "a", "[]"}, {"", "a", "[wrong]"}, {"!", "a", "[wrong]"}, {"", "a", "[wrong]"}, {"", "a", "[wrong]"}},
		"wrong, as before, and so on":   {{"", "a", "[]"}, {"", "a", "[wrong]"}, {"a", "a", "[wrong]"}, {"", "a", "[wrong]"}, {"", "a", "[wrong wrong]"}},
		"wrong in a new way every time": {{"!1", "a", "[]"}, {"!2", "a", "[]"}, {"!3", "a", "[]"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{value: "a"}
				store, err := reread.Load(s.read, s.failed)
				if err != nil {
					t.Fatal(err)
				}
				for i, step := range steps {
					s.set(step.set)
					if got := *store.Look(); got != *store.Current() {
						t.Errorf("step %d: Look returned %q within a second, want the current %q", i, got, *store.Current())
					}
					time.Sleep(time.Second)
					before := len(s.said)
					got := *store.Look()
					if said := fmt.Sprint(s.said); got != step.want || said != step.said {
						t.Errorf("step %d: got %q, reports %s, want %q, %s", i, got, said, step.want, step.said)
					}
					if len(s.said) > before && !store.Refused() {
						t.Errorf("step %d: a report, and Refused is false, want true", i)
					}
				}
				s.set("z")
				time.Sleep(time.Second)
				if got := *store.Look(); got != "z" || store.Refused() {
					t.Errorf("at the end: got %q, refused %v, want z, false", got, store.Refused())
				}
			})
		})
	}
}

// While one caller reads, the others get the value before, without waiting.
func TestOneReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{value: "a"}
		store, err := reread.Load(s.read, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.value, s.slow = "b", time.Minute
		time.Sleep(time.Second)
		start := time.Now()
		var mu sync.Mutex
		var got []string
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() {
				value := *store.Look()
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(value, " ", time.Since(start)))
			})
		}
		callers.Wait()
		slices.Sort(got)
		if want := append(slices.Repeat([]string{"a 0s"}, 9), "b 1m0s"); !slices.Equal(got, want) || s.reads != 2 {
			t.Errorf("got %q after %d readings, want %q after 2", got, s.reads, want)
		}
	})
}

func TestWrongAtFirst(t *testing.T) {
	if store, err := reread.Load((&source{}).read, nil); store != nil || err == nil {
		t.Errorf("got %v, error %v, want only an error", store, err)
	}
}
