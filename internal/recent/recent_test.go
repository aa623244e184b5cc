package recent_test

import (
	"slices"
	"testing"

	"github.com/rebound-dev/rebound/internal/recent"
)

func TestCounterForgetsTheOldest(t *testing.T) {
	c := recent.NewCounter(2)
	var got []int
	for _, key := range []string{"a", "b", "a", "c", "b", "a", "c", "b"} {
		got = append(got, c.Next(key))
	}
	// c evicts a; the second a evicts b; the second b evicts c.
	if want := []int{1, 1, 2, 1, 2, 1, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}

func TestMap(t *testing.T) {
	m := recent.NewMap[int](0) // keeps one
	m.Put("a", 1)
	m.Put("a", 2)
	if v, ok := m.Get("a"); v != 2 || !ok || m.Forgot() {
		t.Errorf("a = %d, %v, forgot %v, want 2, true and false", v, ok, m.Forgot())
	}
	m.Put("b", 3)
	if _, ok := m.Get("a"); ok || !m.Forgot() || !slices.Equal(m.All(), []int{3}) {
		t.Errorf("a is kept: %v, forgot %v, all %v, want false, true and [3]", ok, m.Forgot(), m.All())
	}
}
