package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rebound-dev/rebound/internal/cli"
	"github.com/rebound-dev/rebound/internal/grpcwire"
	"github.com/rebound-dev/rebound/pkg/gateway"
	"github.com/rebound-dev/rebound/pkg/resilience"
	"github.com/rebound-dev/rebound/pkg/transport"
)

// explanation is what the pipeline decides about one attempt, or before the first one, and why.
type explanation struct {
	Request string `json:"request"`
	Route   string `json:"route,omitempty"`
	Policy  string `json:"policy"`
	Attempt int    `json:"attempt"` // 0 before the first one
	// AttemptReason is the reason of the attempt.
	AttemptReason resilience.Reason `json:"attemptReason,omitempty"`
	Breaker       string            `json:"countsAs,omitempty"` // how the circuit counts the attempt
	// Attempts is how many the call has if all of them end like this one; only for gRPC.
	Attempts int       `json:"attempts,omitempty"`
	Gates    []gate    `json:"gates"`
	Verdicts []verdict `json:"verdicts"` // two if the decision depends on the jitter
	Refusal  *refusal  `json:"refusal,omitempty"`
}

// refusal is the gateway's answer to a call that makes no attempt.
type refusal struct {
	Status     int    `json:"status"`
	GRPC       string `json:"grpcStatus,omitempty"` // of a gRPC call
	RetryAfter int64  `json:"retryAfter"`           // s
}

type gate struct {
	Name   string            `json:"gate"`
	Found  string            `json:"found"`
	Shut   bool              `json:"shut"`
	Reason resilience.Reason `json:"reason,omitempty"` // only if the gate is shut
}

type verdict struct {
	Verdict resilience.Verdict `json:"verdict"`
	Reason  resilience.Reason  `json:"reason,omitempty"`
	Wait    string             `json:"wait,omitempty"` // before the next attempt
	Source  string             `json:"waitSource,omitempty"`
}

// explainInput is the attempt to explain: the flags and arguments of the command.
type explainInput struct {
	status         string // a number, or the name of a gRPC status
	code           int    // the same as a number
	grpc           bool
	idempotent     bool // a gRPC call that may be repeated
	committed      bool // the gRPC status came after the response's headers
	failure        string
	header, sent   http.Header
	body           transport.Size
	elapsed        time.Duration
	attempt        int
	circuit        string
	limit, rate    string // free or reached
	tokens         float64
	file, route    string
	text           []byte // of the file
	method, target string
}

const aboutExplain = `explain shows what the pipeline does after an attempt, gate by gate. Without --status and --error it shows
a call that is refused before its first attempt, and what the gateway answers. It uses the code that
real calls use. With grpc in place of the method, --status is one of gRPC.`

// explain runs the command explain.
func explain(_ context.Context, p cli.Program) int {
	q := explainInput{header: http.Header{}, sent: http.Header{}, attempt: 1, tokens: -1, circuit: "closed", limit: "free", rate: "free"}
	fs := p.Flags()
	fs.StringVar(&q.file, "config", "", aboutConfig)
	fs.StringVar(&q.route, "route", "", "use the route `NAME` instead of the one that matches the request")
	fs.StringVar(&q.status, "status", "", "the status `CODE` of the response, such as 503; for gRPC UNAVAILABLE or 14")
	fs.BoolVar(&q.idempotent, "idempotent", false, "the gRPC call may be repeated, as on a route with grpc: {idempotent: true}")
	fs.BoolVar(&q.committed, "committed", false, "the gRPC status came in the trailers, after the response's headers")
	fs.StringVar(&q.failure, "error", "", "or how the attempt failed without a response: `HOW` is dial, reset or timeout")
	fs.Func("header", "a header of the response, such as 'Retry-After: 7'; `NAME: VALUE`, may be repeated", headerInto(q.header))
	fs.Func("request-header", "a header of the request, such as 'Idempotency-Key: k'; `NAME: VALUE`, may be repeated", headerInto(q.sent))
	fs.TextVar(&q.body, "body", transport.Size(0), "the `SIZE` of the request body, such as 100KiB")
	fs.DurationVar(&q.elapsed, "elapsed", 0, "time since the call began")
	fs.IntVar(&q.attempt, "attempt", q.attempt, "the number `N` of the attempt in its call")
	fs.StringVar(&q.circuit, "breaker", q.circuit, "the circuit's `STATE` after it has counted the attempt: closed or open (a failed probe opens it)")
	fs.StringVar(&q.limit, "concurrency", q.limit, "the `STATE` of the concurrency limit: free or reached")
	fs.StringVar(&q.rate, "rate-limit", q.rate, "the `STATE` of the rate limit: free or reached; only before the first attempt")
	fs.Float64Var(&q.tokens, "tokens", q.tokens, "`N` tokens in the retry budget, its floor included; default: a full budget")
	asJSON := fs.Bool("json", false, "print the explanation as JSON")
	var positional []string
	p.Args, positional = splitPositional(fs, p.Args)
	if code, done := p.Parse(fs, usage(aboutExplain, "lab explain 'METHOD /path'|'grpc /service/method' [flags]",
		`  lab explain 'GET /process' --status 503
  lab explain 'POST /orders' --status 503 --header 'Retry-After: 7'
  lab explain 'GET /process' --error timeout --elapsed 4.9s --attempt 2
  lab explain --config rebound.yaml 'GET /process' --rate-limit reached
  lab explain 'grpc /orders.Orders/Create' --status UNAVAILABLE --idempotent
  lab explain 'grpc /o.O/Get' --status 8 --header 'grpc-retry-pushback-ms: 500'
`)); done {
		return code
	}
	if err := q.read(positional); err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if q.file != "" {
		var err error
		if q.file, q.text, err = readInput(p, q.file); err != nil {
			return p.Fail(cli.ExitUsage, err)
		}
	}
	e, err := q.answer()
	if err != nil {
		return p.Fail(cli.ExitUsage, err)
	}
	if *asJSON {
		enc := json.NewEncoder(p.Stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(e)
	} else {
		err = e.write(p.Stdout)
	}
	if err != nil {
		return p.Fail(cli.ExitFailed, err)
	}
	return cli.ExitOK
}

// splitPositional separates args into flags and positional arguments, in any order. Package flag
// stops at the first positional argument.
func splitPositional(fs *flag.FlagSet, args []string) (flags, positional []string) {
	for i := 0; i < len(args); i++ {
		name := strings.TrimLeft(args[i], "-")
		switch {
		case args[i] == "--":
			return flags, append(positional, args[i+1:]...)
		case name == args[i] || name == "":
			positional = append(positional, args[i])
			continue
		}
		flags = append(flags, args[i])
		if f := fs.Lookup(name); f != nil && i+1 < len(args) { // the value is the next argument
			if b, ok := f.Value.(interface{ IsBoolFlag() bool }); !ok || !b.IsBoolFlag() {
				i++
				flags = append(flags, args[i])
			}
		}
	}
	return flags, positional
}

func headerInto(h http.Header) func(string) error {
	return func(s string) error {
		name, value, ok := strings.Cut(s, ":")
		name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
		if !ok || name == "" {
			return errors.New("expected a header such as 'Retry-After: 7'")
		}
		h.Add(name, strings.TrimSpace(value))
		return nil
	}
}

// read checks the flags and reads the request.
func (q *explainInput) read(positional []string) error {
	if len(positional) != 1 {
		return fmt.Errorf("expected one request such as 'GET /process', got %d", len(positional))
	}
	fields := strings.Fields(positional[0])
	switch {
	case len(fields) == 1 && strings.HasPrefix(fields[0], "/"):
		q.method, q.target = http.MethodGet, fields[0]
	case len(fields) == 2 && strings.HasPrefix(fields[1], "/"):
		q.method, q.target = fields[0], fields[1]
	default:
		return fmt.Errorf("%q: expected a request such as 'POST /orders'", positional[0])
	}
	if q.grpc = strings.EqualFold(q.method, "grpc"); q.grpc {
		q.method = http.MethodPost
	}
	if err := q.readStatus(); err != nil {
		return err
	}
	switch {
	case q.grpc && strings.Count(q.target, "/") != 2:
		return fmt.Errorf("%q: expected a gRPC call such as 'grpc /orders.Orders/Create'", positional[0])
	case !q.grpc && (q.idempotent || q.committed):
		return errors.New("--idempotent and --committed are about gRPC: expected a call such as 'grpc /orders.Orders/Create'")
	case q.committed && q.status == "":
		return errors.New("--committed: requires --status CODE")
	case q.status != "" && q.failure != "":
		return errors.New("expected either --status CODE or --error HOW")
	case q.failure != "" && !slices.Contains([]string{"dial", "reset", "timeout"}, q.failure):
		return fmt.Errorf("--error: must be dial, reset or timeout, got %q", q.failure)
	case q.attempt < 1 || q.attempt > 100:
		return fmt.Errorf("--attempt: must be from 1 to 100, got %d", q.attempt)
	case q.elapsed < 0:
		return fmt.Errorf("--elapsed: must be at least 0s, got %v", q.elapsed)
	case q.circuit != "closed" && q.circuit != "open":
		return fmt.Errorf("--breaker: must be closed or open, got %q", q.circuit)
	case q.limit != "free" && q.limit != "reached":
		return fmt.Errorf("--concurrency: must be free or reached, got %q", q.limit)
	case q.rate != "free" && q.rate != "reached":
		return fmt.Errorf("--rate-limit: must be free or reached, got %q", q.rate)
	case q.rate == "reached" && !q.first():
		return errors.New("--rate-limit: a retry needs no token; leave out --status and --error")
	case q.first() && q.circuit != "open" && q.limit != "reached" && q.rate != "reached":
		return errors.New("expected either --status CODE or --error HOW, or a refusal: --rate-limit reached, --breaker open or --concurrency reached")
	case !(q.tokens >= 0) && q.tokens != -1: // also rejects NaN
		return fmt.Errorf("--tokens: must be at least 0, got %v", q.tokens)
	}
	return nil
}

// readStatus reads the status of HTTP, or of gRPC.
func (q *explainInput) readStatus() error {
	switch {
	case q.status == "":
		return nil
	case q.grpc:
		name := strings.ToUpper(q.status)
		if name == "CANCELED" { // as many libraries write it
			name = grpcwire.Canceled.String()
		}
		code, ok := grpcwire.ParseCode(name)
		if !ok {
			return fmt.Errorf("--status: must be a gRPC status such as UNAVAILABLE or 14, got %q", q.status)
		}
		q.code = int(code)
		return nil
	}
	n, err := strconv.Atoi(q.status)
	switch {
	case err != nil:
		return fmt.Errorf("--status: must be a number such as 503, got %q; for gRPC begin the request with grpc", q.status)
	case n < 200 || n > 599:
		return fmt.Errorf("--status: must be from 200 to 599, got %d", n)
	}
	q.code = n
	return nil
}

// first reports whether the question is about a call before its first attempt.
func (q *explainInput) first() bool { return q.status == "" && q.failure == "" }

// policy returns the route that matches the request, and its policy.
func (q *explainInput) policy() (route gateway.Route, p transport.Policy, err error) {
	if q.file == "" {
		if q.route != "" {
			return route, p, errors.New("--route: requires --config FILE")
		}
		return gateway.Route{Policy: gateway.DefaultPolicyName}, transport.DefaultPolicy(), nil
	}
	cfg := gateway.DefaultConfig()
	if err := decodeConfig(q.file, q.text, &cfg); err != nil {
		return route, p, err
	}
	mux := http.NewServeMux()
	byPattern := map[string]gateway.Route{}
	for _, r := range cfg.Routes {
		if q.route == r.Name {
			return r, cfg.Policies[r.Policy], nil
		}
		mux.Handle(r.Match, http.NotFoundHandler())
		byPattern[r.Match] = r
	}
	if q.route != "" {
		return route, p, fmt.Errorf("--route: %s has no route %q", q.file, q.route)
	}
	host := cmp.Or(q.sent.Get("Host"), "gateway")
	req, err := http.NewRequest(q.method, "http://"+host+q.target, nil) //nolint:noctx // it is only matched
	if err != nil {
		return route, p, err
	}
	_, pattern := mux.Handler(req)
	r, ok := byPattern[pattern]
	if !ok {
		return route, p, fmt.Errorf("%s has no route for %s %s", q.file, q.method, q.target)
	}
	return r, cfg.Policies[r.Policy], nil
}

// answer asks the pipeline for the decision with the shortest and the longest jitter.
func (q *explainInput) answer() (explanation, error) {
	route, policy, err := q.policy()
	if err != nil {
		return explanation{}, err
	}
	name := route.Policy
	q.idempotent = q.idempotent || route.GRPC.Idempotent
	switch {
	case q.limit == "reached" && policy.Concurrency.Max < 0:
		return explanation{}, fmt.Errorf("--concurrency: policy %s has no limit, concurrency.max is -1", name)
	case q.rate == "reached" && policy.RateLimit.PerSecond == 0:
		return explanation{}, fmt.Errorf("--rate-limit: policy %s has no rateLimit", name)
	}
	t, err := transport.New(nil, policy)
	if err != nil {
		return explanation{}, err
	}
	e := explanation{Request: q.method + " " + q.target, Route: route.Name, Policy: name, Attempt: q.attempt}
	if q.grpc {
		e.Request = "grpc " + q.target
	}
	if q.first() {
		req, err := q.request()
		if err != nil {
			return explanation{}, err
		}
		refused, gates := t.ExplainFirst(req, resilience.Situation{
			OverRate:    func() bool { return q.rate == "reached" },
			CircuitOpen: func() bool { return q.circuit == "open" },
			Crowded:     func() bool { return q.limit == "reached" },
		})
		e.Attempt, e.Gates = 0, show(gates)
		if refused == nil {
			return explanation{}, errors.New("--concurrency: an adaptive limit leaves out requests with a body")
		}
		e.Verdicts = []verdict{{Verdict: resilience.VerdictGiveUp, Reason: refused.Reason}}
		e.Refusal = &refusal{}
		e.Refusal.Status, e.Refusal.RetryAfter = gateway.RefusalStatus(refused)
		if q.grpc {
			code, _ := refused.Reason.GRPC()
			e.Refusal.Status, e.Refusal.GRPC = http.StatusOK, grpcwire.Code(code).String()
		}
		return e, nil
	}
	tokens := q.tokens
	if tokens < 0 {
		tokens = policy.Retry.Budget.Most()
	}
	const almostOne = 1 - 1e-9
	for _, u := range []float64{0, almostOne} {
		o, d, found, err := q.decide(t, situation{attempt: q.attempt, elapsed: q.elapsed, tokens: tokens, jitter: u})
		if err != nil {
			return explanation{}, err
		}
		e.AttemptReason = o.Reason
		e.Breaker = map[resilience.Health]string{resilience.Healthy: "success", resilience.Unhealthy: "failure", resilience.Neutral: "neither"}[o.Health]
		e.Gates = show(found) // those with the longest wait remain
		v := verdict{Verdict: d.Verdict, Reason: d.Reason}
		if d.Verdict == resilience.VerdictRetry {
			v.Wait, v.Source = d.Wait.Round(time.Microsecond).String(), string(d.Source)
		}
		if len(e.Verdicts) == 0 || e.Verdicts[0] != v {
			e.Verdicts = append(e.Verdicts, v)
		}
	}
	if q.grpc {
		e.Attempts, err = q.attempts(t, tokens)
	}
	return e, err
}

// situation is that of an attempt.
type situation struct {
	attempt int
	elapsed time.Duration
	tokens  float64
	jitter  float64 // from 0 to below 1
}

// decide asks the pipeline for the decision after an attempt.
func (q *explainInput) decide(t *transport.Transport, s situation) (resilience.Outcome, resilience.Decision, []resilience.Gate, error) {
	req, err := q.request()
	if err != nil {
		return resilience.Outcome{}, resilience.Decision{}, nil, err
	}
	policy := t.Policy()
	resp, failure := q.outcome() //nolint:bodyclose // it has none
	var previous time.Duration
	for n := 1; n < s.attempt; n++ {
		previous = policy.Retry.Backoff.Delay(n, previous, s.jitter)
	}
	limit := t.Limit(req)
	if callers, ok := grpcwire.Timeout(req.Header); ok && q.grpc {
		limit = min(limit, callers)
	}
	o, d, found := t.Explain(req, resp, failure, resilience.Situation{
		Attempt: s.attempt, Remaining: limit - s.elapsed, Previous: previous,
		Random:      func() float64 { return s.jitter },
		CircuitOpen: func() bool { return q.circuit == "open" },
		Crowded:     func() bool { return q.limit == "reached" },
		TakeToken:   func() bool { return s.tokens >= 1 || policy.Retry.Budget.FloorPerSecond > 0 && q.tokens < 0 },
	})
	return o, d, found, nil
}

// attempts returns how many attempts the call has if all of them end like this one, at once.
func (q *explainInput) attempts(t *transport.Transport, tokens float64) (int, error) {
	s := situation{attempt: q.attempt, elapsed: q.elapsed, tokens: tokens}
	for {
		_, d, _, err := q.decide(t, s)
		if err != nil || d.Verdict != resilience.VerdictRetry {
			return s.attempt, err
		}
		s.attempt++
		s.elapsed += d.Wait
		s.tokens--
	}
}

// show describes gates.
func show(found []resilience.Gate) (gates []gate) {
	for _, g := range found {
		shown := gate{Name: g.Name, Found: g.Found(), Shut: g.Shut}
		if g.Shut {
			shown.Reason = g.Reason
		}
		gates = append(gates, shown)
	}
	return gates
}

func (q *explainInput) request() (*http.Request, error) {
	var body io.Reader
	if q.body > 0 || q.grpc {
		body = io.NopCloser(strings.NewReader("")) // only its size matters
	}
	req, err := http.NewRequest(q.method, "http://upstream"+q.target, body) //nolint:noctx // it is not sent
	if err != nil {
		return nil, err
	}
	if q.body > 0 {
		req.ContentLength = int64(q.body)
	}
	req.Header = q.sent.Clone()
	if q.grpc {
		req.Header.Set("Content-Type", grpcwire.ContentType)
		if q.idempotent {
			req = req.WithContext(transport.WithIdempotent(req.Context()))
		}
	}
	return req, nil
}

func (q *explainInput) outcome() (*http.Response, error) {
	switch q.failure {
	case "dial":
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	case "reset":
		return nil, io.ErrUnexpectedEOF
	case "timeout":
		return nil, context.DeadlineExceeded
	}
	if !q.grpc {
		return &http.Response{StatusCode: q.code, Header: q.header, Body: http.NoBody}, nil
	}
	resp := &http.Response{StatusCode: http.StatusOK, ProtoMajor: 2, Header: q.header.Clone(), Body: http.NoBody}
	resp.Header.Set("Content-Type", grpcwire.ContentType)
	if status := []string{strconv.Itoa(q.code)}; q.committed {
		resp.Trailer = http.Header{grpcwire.HeaderStatus: status}
	} else {
		resp.Header[grpcwire.HeaderStatus] = status
	}
	return resp, nil
}

func (e explanation) write(w io.Writer) error {
	var b strings.Builder
	of := "policy " + e.Policy
	if e.Route != "" {
		of = "route " + e.Route + ", " + of
	}
	b.WriteString(e.conclusion() + "\n")
	if e.Refusal != nil {
		fmt.Fprintf(&b, "%s (%s): before the first attempt\n\n", e.Request, of)
	} else {
		fmt.Fprintf(&b, "%s (%s): attempt %d ended with %s, which the circuit counts as a %s\n\n", e.Request, of, e.Attempt, e.AttemptReason,
			cmp.Or(map[string]string{"neither": "result that does not count"}[e.Breaker], e.Breaker))
	}
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	decided := false
	for _, g := range e.Gates {
		says := "pass"
		if g.Shut {
			says = "shut: " + string(g.Reason)
			if decided {
				says += " (decided already)"
			}
			decided = true
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", g.Name, g.Found, says)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(e.Gates) == 0 {
		b.WriteString("  no gate: the attempt needs no retry\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// conclusion says what the pipeline does, in a line or two.
func (e explanation) conclusion() string {
	var b strings.Builder
	switch {
	case e.Refusal != nil && e.Refusal.GRPC != "":
		fmt.Fprintf(&b, "refused with %s: the caller gets %s, RetryInfo: %d s\n", e.Verdicts[0].Reason, e.Refusal.GRPC, e.Refusal.RetryAfter)
	case e.Refusal != nil:
		fmt.Fprintf(&b, "refused with %s: the caller gets %d, Retry-After: %d\n", e.Verdicts[0].Reason, e.Refusal.Status, e.Refusal.RetryAfter)
	case len(e.Verdicts) == 1:
		fmt.Fprintf(&b, "%s\n", e.Verdicts[0])
	case e.Verdicts[0].Verdict == resilience.VerdictRetry && e.Verdicts[1].Verdict == resilience.VerdictRetry:
		fmt.Fprintf(&b, "retry after %s to %s (%s)\n", e.Verdicts[0].Wait, e.Verdicts[1].Wait, e.Verdicts[1].Source)
	default:
		fmt.Fprintf(&b, "depends on the jitter: with the shortest wait %s, with the longest (as below) %s\n", e.Verdicts[0], e.Verdicts[1])
	}
	if e.Attempts > e.Attempt {
		fmt.Fprintf(&b, "%d attempts, if all of them end so\n", e.Attempts)
	}
	return b.String()
}

func (v verdict) String() string {
	if v.Verdict == resilience.VerdictRetry {
		return fmt.Sprintf("retry after %s (%s)", v.Wait, v.Source)
	}
	return fmt.Sprintf("%s: the call ends with %s", v.Verdict, v.Reason)
}
