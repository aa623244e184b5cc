package transport

import "testing"

func TestEveryEndingIsJudged(t *testing.T) {
	for e := range endings {
		if j := e.blame(); !j.judged {
			t.Errorf("ending %d has no case in blame: decide whose fault it is", e)
		}
	}
	if endings.blame().judged {
		t.Error("blame judges what is no ending: this test could not fail")
	}
}
