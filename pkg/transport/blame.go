package transport

import (
	"net/http"

	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// ending is the way in which an HTTP attempt or the body of its response ended.
type ending uint8

const (
	// The upstream answered.
	answered         ending = iota // below 400
	switchedProtocol               // 101
	// 4xx other than 429, or 501 or 508: it works, and refuses this request
	rejected
	// 504 after the caller's time was up: it respected the caller's limit
	deadlinePassed
	rateLimited // 429: it works, and refuses for now
	serverError // any other 5xx, or a status that HTTP does not define

	// The upstream answered with a gRPC status.
	rpcRejected       // it works, and refuses this call
	rpcUnavailable    // UNAVAILABLE
	rpcFailed         // UNKNOWN, INTERNAL, DATA_LOSS
	rpcTimedOut       // DEADLINE_EXCEEDED after our own limit
	rpcDeadlinePassed // any other DEADLINE_EXCEEDED: the time was the caller's, or was short by design
	rpcExhausted      // RESOURCE_EXHAUSTED: it works, and refuses for now

	// There is no response.
	dialFailed          // no connection
	tlsFailed           // the TLS handshake failed
	badCertificate      // the upstream's certificate is not accepted
	streamRefused       // HTTP/2 REFUSED_STREAM: the upstream has not processed the request
	resetBeforeHeaders  // the connection failed before the response headers
	notHTTP             // the response is not HTTP
	noEndpoint          // no address of the upstream is known
	allEjected          // all endpoints of the upstream are ejected
	invalidRequest      // net/http refuses to send the request
	headerTooLarge      // the request header is larger than the limit that the upstream announced
	uploadFailed        // reading the caller's request body failed
	uploadNotReplayable // the caller's request body cannot be read again

	// The body of the response.
	bodyComplete // read to its end
	bodyClosed   // closed early by its reader
	bodyBroken   // the upstream broke off, or sent nothing for bodyIdleTimeout
	// the upstream broke off after the reader had paused: it may have given up waiting
	bodyUnread
	bodyAbandoned // the caller has left

	endingCount // the number of endings
)

// anyMethod returns why the method does not matter for the gate, or an empty string if it does.
func (r repeat) anyMethod() string {
	switch r {
	case everything:
		return "not sent"
	case byPushback:
		return "asked for"
	case never, byStatus, byMethod:
	}
	return ""
}

// judgement is the meaning of an ending. Its zero value is not a valid judgement.
type judgement struct {
	health resilience.Health
	reason resilience.Reason // empty: derived from the status
	repeat repeat
	judged bool
}

// repeat says which requests may be sent again.
type repeat uint8

const (
	never      repeat = iota
	byStatus          // if the policy lists the status and the method allows it
	byMethod          // if the method allows it: the upstream may have processed the request
	byPushback        // if a gRPC upstream asks for it
	everything        // all: the upstream has not processed the request
)

// blame decides who is to blame for an ending. It implements the table in docs/pipeline.md, and is
// the only place that decides this. The rule: no caller can open the circuit of a healthy upstream
// for others. Package resilience judges timeouts.
//
// The switch has no default on purpose: TestEveryEndingIsJudged and the linter exhaustive report an
// ending without a case.
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
	case rejected:
		return judge(resilience.Healthy, "", byStatus)
	case deadlinePassed, rateLimited:
		return judge(resilience.Neutral, "", byStatus)
	case serverError:
		return judge(resilience.Unhealthy, "", byStatus)

	case rpcRejected:
		return judge(resilience.Healthy, "", never)
	case rpcUnavailable:
		return judge(resilience.Unhealthy, "", byMethod)
	case rpcFailed, rpcTimedOut:
		return judge(resilience.Unhealthy, "", never)
	case rpcDeadlinePassed:
		return judge(resilience.Neutral, "", never)
	case rpcExhausted:
		return judge(resilience.Neutral, "", byPushback)

	case dialFailed:
		return judge(resilience.Unhealthy, resilience.ReasonDialError, everything)
	case tlsFailed:
		return judge(resilience.Unhealthy, resilience.ReasonTLSError, everything)
	case noEndpoint:
		return judge(resilience.Unhealthy, resilience.ReasonNoEndpoint, everything)
	case allEjected:
		return judge(resilience.Unhealthy, resilience.ReasonEndpointEjected, everything)
	case badCertificate: // another attempt would meet the same certificate
		return judge(resilience.Unhealthy, resilience.ReasonTLSError, never)
	case streamRefused:
		return judge(resilience.Unhealthy, resilience.ReasonResetBeforeHeaders, everything)
	case resetBeforeHeaders:
		return judge(resilience.Unhealthy, resilience.ReasonResetBeforeHeaders, byMethod)
	case notHTTP:
		return judge(resilience.Unhealthy, resilience.ReasonNotHTTP, byMethod)
	case invalidRequest, headerTooLarge: // another attempt would be refused too
		return judge(resilience.Neutral, resilience.ReasonInvalidRequest, never)
	case uploadFailed: // another attempt would fail too
		return judge(resilience.Neutral, resilience.ReasonBodyFailed, never)
	case uploadNotReplayable:
		return judge(resilience.Neutral, resilience.ReasonBodyNotReplayable, never)

	case bodyComplete, bodyClosed:
		return judge(resilience.Healthy, resilience.ReasonOK, never)
	case bodyBroken: // once the caller has its beginning, there is no other attempt
		return judge(resilience.Unhealthy, resilience.ReasonBodyFailed, byMethod)
	case bodyUnread:
		return judge(resilience.Neutral, resilience.ReasonBodyFailed, never)
	case bodyAbandoned:
		return judge(resilience.Neutral, resilience.ReasonCallerCanceled, never)

	case endingCount:
	}
	return judgement{}
}

// statusEnding returns the ending that a status stands for.
func statusEnding(code int) ending {
	switch {
	case code == http.StatusSwitchingProtocols:
		return switchedProtocol
	case code < 400:
		return answered
	case code == http.StatusTooManyRequests:
		return rateLimited
	case nethttp.Fails(code):
		return serverError
	}
	return rejected
}
