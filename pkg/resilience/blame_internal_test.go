package resilience

import "testing"

func TestEveryEndingIsJudged(t *testing.T) {
	for e := range endings {
		if _, judged := e.blame(0, 1); !judged {
			t.Errorf("ending %d has no case in blame: decide whose fault it is", e)
		}
	}
	if _, judged := endings.blame(0, 1); judged {
		t.Error("blame judges what is no ending: this test could not fail")
	}
}
