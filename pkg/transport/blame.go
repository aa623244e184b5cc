package transport

import (
	"net/http"

	"github.com/rebound-dev/rebound/pkg/resilience"
)

// ending is what became of an attempt over HTTP, or of the body of its answer.
type ending uint8

const (
	// The upstream answered.
	answered         ending = iota // below 400
	switchedProtocol               // 101
	saidNo                         // 4xx other than 429, 501 and 508: alive, and refuses this request
	saidLate                       // 504, when the caller's time was up: it kept to the limit that it was told
	saidWait                       // 429: alive, and refuses for now
	saidBroken                     // 5xx other than those two, or a status that HTTP does not have

	// There is no answer.
	notConnected   // no connection
	notSecured     // the TLS handshake failed
	wrongIdentity  // the upstream's certificate is not accepted
	refusedUnread  // HTTP/2 REFUSED_STREAM: not processed in any way
	resetUnopened  // the connection died before an answer began
	notHTTP        // the upstream answered with something that is not HTTP
	cannotBeSent   // net/http refuses to send the request
	tooLargeToSend // the request's header is above what the upstream announced
	uploadBroke    // the caller's request body failed
	uploadGone     // the caller's request body cannot be had again

	// The body of the answer.
	bodyComplete  // read to its end
	bodyClosed    // its reader wanted no more of it
	bodyDied      // the upstream broke off, or stalled for longer than bodyIdleTimeout
	bodyNotRead   // it broke off after its reader had paused: the upstream may have lost patience
	bodyAbandoned // its reader is gone

	endings // how many there are
)

// judgement is what an ending means. The zero value is not one.
type judgement struct {
	health resilience.Health
	reason resilience.Reason // empty for the status's own
	repeat repeat
	judged bool
}

// repeat says which requests may be sent again.
type repeat uint8

const (
	never      repeat = iota
	byStatus          // those whose status the policy lists, if their method allows it
	byMethod          // those whose method allows it: the upstream may have processed the request
	everything        // all: the upstream has provably not processed it
)

// blame is the one place that decides whose fault an ending is, as the table in
// docs/pipeline.md shows. The rule is that no caller can close a healthy upstream
// to others. Running out of time is judged by package resilience.
//
// The switch has no default: an ending without a case fails
// TestEveryEndingIsJudged, and the linter exhaustive reports it.
func (e ending) blame() judgement {
	judge := func(h resilience.Health, reason resilience.Reason, r repeat) judgement {
		return judgement{h, reason, r, true}
	}
	//exhaustive:enforce
	switch e {
	case answered:
		return judge(resilience.Healthy, resilience.ReasonOK, never)
	case switchedProtocol:
		return judge(resilience.Healthy, resilience.ReasonUpgrade, never)
	case saidNo:
		return judge(resilience.Healthy, "", byStatus)
	case saidLate, saidWait:
		return judge(resilience.Neutral, "", byStatus)
	case saidBroken:
		return judge(resilience.Unhealthy, "", byStatus)

	case notConnected:
		return judge(resilience.Unhealthy, resilience.ReasonDialError, everything)
	case notSecured:
		return judge(resilience.Unhealthy, resilience.ReasonTLSError, everything)
	case wrongIdentity: // it will not be better in a moment
		return judge(resilience.Unhealthy, resilience.ReasonTLSError, never)
	case refusedUnread:
		return judge(resilience.Unhealthy, resilience.ReasonResetBeforeHeaders, everything)
	case resetUnopened:
		return judge(resilience.Unhealthy, resilience.ReasonResetBeforeHeaders, byMethod)
	case notHTTP:
		return judge(resilience.Unhealthy, resilience.ReasonNotHTTP, byMethod)
	case cannotBeSent, tooLargeToSend: // it would be refused again
		return judge(resilience.Neutral, resilience.ReasonInvalidRequest, never)
	case uploadBroke: // it would break again
		return judge(resilience.Neutral, resilience.ReasonBodyFailed, never)
	case uploadGone:
		return judge(resilience.Neutral, resilience.ReasonBodyNotReplayable, never)

	case bodyComplete, bodyClosed:
		return judge(resilience.Healthy, resilience.ReasonOK, never)
	case bodyDied:
		return judge(resilience.Unhealthy, resilience.ReasonBodyFailed, never)
	case bodyNotRead:
		return judge(resilience.Neutral, resilience.ReasonBodyFailed, never)
	case bodyAbandoned:
		return judge(resilience.Neutral, resilience.ReasonCallerCanceled, never)

	case endings:
	}
	return judgement{}
}

// statusEnding is what an answer's status means.
func statusEnding(code int) ending {
	switch {
	case code == http.StatusSwitchingProtocols:
		return switchedProtocol
	case code < 400:
		return answered
	case code == http.StatusTooManyRequests:
		return saidWait
	// 508: a caller can bring it about with the Via of a gateway behind this one.
	case code < 500, code == http.StatusNotImplemented, code == http.StatusLoopDetected:
		return saidNo
	}
	return saidBroken
}
