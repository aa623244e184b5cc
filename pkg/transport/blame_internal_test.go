package transport

import "testing"

func TestEveryEndingIsJudged(t *testing.T) {
	for e := range endingCount {
		if j := e.blame(); !j.judged {
			t.Errorf("ending %d has no case in blame, want one that decides whose fault it is", e)
		}
	}
	if endingCount.blame().judged {
		t.Error("blame judges an unknown ending, want it unjudged: this test could not fail")
	}
}
