package page_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/live"
	"github.com/rebound-dev/rebound/internal/page"
	"github.com/rebound-dev/rebound/pkg/observe"
	"github.com/rebound-dev/rebound/pkg/resilience"
)

// A call is shown completely, within 250 ms.
func TestOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		if first := p.mustNext(t); !first.Reset || first.Total != 0 || len(first.Calls) != 0 {
			t.Errorf("first event of an idle gateway = %+v, want a reset without calls", first)
		}
		c := call(resilience.StatusReason(503), resilience.ReasonOK)
		c.Report.Attempts[0].Err = errors.New("no luck")
		c.TraceID[15] = 0xab
		recorded := time.Now()
		w.ObserveCall(context.Background(), *c)
		clear(c.Report.Attempts) // the pipeline reuses its memory
		e := p.mustNext(t)
		for len(e.Calls) == 0 {
			e = p.mustNext(t)
		}
		if took := time.Since(recorded); took > 250*time.Millisecond {
			t.Errorf("shown after %v, want at most 250ms", took)
		}
		var shown, want any
		_, body := w.get(t, "/api/calls/1", &shown)
		_ = json.Unmarshal([]byte(`{"id":1,"route":"process","policy":"default","upstream":"http://flaky-server:5000","method":"GET",
			"url":"http://localhost:8080/process","status":200,"good":true,"reason":"ok","requestId":"r-1",
			"traceId":"000000000000000000000000000000ab","start":946684799950,"duration":50,"deadline":5000,"budgetTokens":7,"attempts":[
			{"number":1,"start":0,"duration":10,"limit":1000,"good":false,"reason":"status_503","verdict":"retry","breaker":"closed","status":503,
			 "error":"no luck","wait":{"source":"jitter","reason":"status_503","planned":30,"actual":30}},
			{"number":2,"start":40,"duration":10,"limit":1000,"good":true,"reason":"ok","verdict":"return","breaker":"closed","status":200}]}`), &want)
		if got, want := fmt.Sprint(shown), fmt.Sprint(want); got != want {
			t.Errorf("got %s\nwant %s", body, want)
		}
		s := e.Series[0]
		if s.Upstream != upstream || s.Policy != "default" || s.Window.Offered != 1 || s.Window.Good != 1 || s.Window.Attempts != 2 || s.Window.AttemptsGood != 1 {
			t.Errorf("series = %+v, want one good call with two attempts, one of them good", s)
		}
		if got := s.Seconds[0]; got.Offered != 1 || got.Good != 1 || got.Attempts != 2 || got.P50 < 45 || got.P50 > 55 {
			t.Errorf("second = %+v, want one good call with two attempts and a median of 50 ms", got)
		}
	})
}

// A gRPC call is shown with its status and message, and those of each attempt that has them.
func TestOneGRPCCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		c := call(resilience.GRPCReason(14), resilience.ReasonAttemptTimeout, resilience.ReasonOK)
		c.Method, c.Path, c.GRPCStatus, c.GRPCMessage = http.MethodPost, "/orders.Orders/Create", "INTERNAL", "out of disk"
		c.Report.Reason = resilience.GRPCReason(13)
		c.Report.Attempts[0].Message, c.Report.Attempts[0].Status = "<b>starting</b>", http.StatusOK
		c.Report.Attempts[1].Err, c.Report.Attempts[1].Status = errors.New("too slow"), 0
		w.ObserveCall(context.Background(), *c)
		time.Sleep(time.Second)
		type grpc struct{ Status, Message string }
		var got struct {
			Good     bool
			GRPC     *grpc
			Attempts []struct {
				Good   bool
				Reason string
				GRPC   *grpc
			}
		}
		_, body := w.get(t, "/api/calls/1", &got)
		if got.Good || got.GRPC == nil || *got.GRPC != (grpc{"INTERNAL", "out of disk"}) || len(got.Attempts) != 3 {
			t.Fatalf("got %s, want a failed call with INTERNAL and three attempts", body)
		}
		for i, want := range []struct {
			grpc   grpc
			reason string
		}{{grpc{"UNAVAILABLE", "<b>starting</b>"}, "grpc_unavailable"}, {grpc{}, "attempt_timeout"}, {grpc{"INTERNAL", "out of disk"}, "grpc_internal"}} {
			a := got.Attempts[i]
			shown := grpc{}
			if a.GRPC != nil {
				shown = *a.GRPC
			}
			if a.Good || shown != want.grpc || a.Reason != want.reason {
				t.Errorf("attempt %d: got good %v, %+v, %s, want a failed one with %+v, %s", i+1, a.Good, shown, a.Reason, want.grpc, want.reason)
			}
		}
	})
}

// With ten thousand calls between two events, the figures are exact, the newest calls are shown,
// and the event counts the others.
func TestMoreCallsThanCanBeShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		p.mustNext(t)
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				for range 2500 {
					w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
				}
			})
		}
		calls.Wait()
		e := p.mustNext(t)
		if e.Total != 10_000 || e.Missed+uint64(len(e.Calls)) != 10_000 || len(e.Calls) == 0 {
			t.Errorf("total %d, %d shown, %d missed, want a total of 10000, all shown or missed", e.Total, len(e.Calls), e.Missed)
		}
		if last := e.Calls[len(e.Calls)-1]; last.ID != 10_000 {
			t.Errorf("newest shown call = %d, want 10000", last.ID)
		}
		if s := e.Series[0].Seconds[0]; s.Offered != 10_000 || s.Attempts != 10_000 {
			t.Errorf("second = %+v, want 10000 calls and attempts", s)
		}
	})
}

// The history and each event keep the notable calls, however many calls succeed at the first
// attempt.
func TestNotableCallsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		w.ObserveCall(context.Background(), *call(resilience.StatusReason(503), resilience.ReasonOK))
		shown := false
		for range 20 {
			for range 200 {
				w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
			}
			time.Sleep(200 * time.Millisecond)
		}
		for range 20 {
			for _, c := range p.mustNext(t).Calls {
				shown = shown || len(c.Attempts) == 2
			}
		}
		if !shown {
			t.Error("no event has the call with two attempts, want one")
		}
		time.Sleep(time.Second) // the recorder may gather in the same moment as a call begins
		var kept struct {
			Total uint64
			Calls []shownCall
		}
		w.get(t, "/api/calls?reason=status_503", &kept)
		if kept.Total != 4001 || len(kept.Calls) != 1 || len(kept.Calls[0].Attempts) != 2 {
			t.Errorf("kept with the reason status_503: %d of %d calls, want 1 of 4001, with two attempts", len(kept.Calls), kept.Total)
		}
	})
}

// A page that comes back gets only what it missed. With an ID of another process, or an invalid
// one, it starts afresh.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		p.mustNext(t)
		w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		last := p.mustNext(t)
		if got := ids(last.Calls); got != "1 2" {
			t.Fatalf("calls = %s, want 1 2", got)
		}
		p.close()
		for range 3 {
			w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
			w.ObserveTransition(observe.Transition{Policy: "default", Transition: resilience.Transition{Upstream: upstream, From: resilience.Closed, To: resilience.Open, At: time.Now(), Failures: 9}})
			time.Sleep(time.Second)
		}
		back := w.open(t, last.id).mustNext(t)
		if got := ids(back.Calls); back.Reset || got != "3 4 5" || back.Missed != 0 || len(back.Transitions) != 3 || len(back.Series[0].Seconds) != 3 {
			t.Errorf("after a break: got reset %v, calls %s, %d missed, %d transitions, seconds %+v, want calls 3 4 5 and three of each",
				back.Reset, got, back.Missed, len(back.Transitions), back.Series[0].Seconds)
		}
		if tr := back.Transitions[0]; tr.Policy != "default" || tr.To != "open" || tr.Failures != 9 {
			t.Errorf("transition = %+v, want one of policy default to open with 9 failures", tr)
		}
		for range 300 {
			w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
		}
		time.Sleep(time.Second)
		if back = w.open(t, last.id).mustNext(t); len(back.Calls) != 100 || back.Missed != 203 {
			t.Errorf("after a long break: got %d calls and %d missed, want 100 and 203", len(back.Calls), back.Missed)
		}
		for _, id := range []string{"1-2-3", "nonsense", last.id + "999999", "-", last.id[:9], last.id + "-0", last.id + " x", last.id[:9] + "1--2-0", last.id[:9] + "1-+2-0"} {
			if e := w.open(t, id).mustNext(t); !e.Reset || len(e.Calls) != 100 || e.Missed != 0 {
				t.Errorf("Last-Event-ID %q: got reset %v, %d calls, %d missed, want a reset with 100 calls", id, e.Reset, len(e.Calls), e.Missed)
			}
		}
		// The numbers of this forged ID contradict each other.
		if e := w.open(t, last.id[:9]+"0-305-0").mustNext(t); e.Missed != 0 {
			t.Errorf("a forged ID: missed = %d, want 0", e.Missed)
		}
	})
}

// Pages that open at different moments get each call exactly once.
func TestEachCallOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		for i := range 20 {
			time.Sleep(37 * time.Millisecond)
			w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
			p := w.open(t, "")
			seen := map[uint64]int{}
			e := p.mustNext(t)
			for {
				for _, c := range e.Calls {
					seen[c.ID]++
				}
				if e.Missed != 0 {
					t.Fatalf("missed = %d, want 0", e.Missed)
				}
				if e.Total == uint64(i+1) {
					break
				}
				e = p.mustNext(t)
			}
			p.close()
			if len(seen) != i+1 {
				t.Errorf("got %d calls, want %d", len(seen), i+1)
			}
			for id, n := range seen {
				if n != 1 {
					t.Errorf("got call %d %d times, want once", id, n)
				}
			}
		}
	})
}

// A page that does not read is dropped and counted. Neither calls nor other pages wait for it.
func TestSlowPageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		slow := w.open(t, "")
		good := w.open(t, "")
		slow.mustNext(t)
		good.mustNext(t)
		for i := range 200 {
			before := time.Now()
			w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
			if took := time.Since(before); took != 0 {
				t.Fatalf("recording call %d took %v, want no wait", i, took)
			}
			e := good.mustNext(t)
			for e.Total != uint64(i+1) {
				e = good.mustNext(t)
			}
			if i == 199 && (e.Pages.Open != 1 || e.Pages.Dropped != 1) {
				t.Errorf("pages = %+v, want 1 open and 1 dropped", e.Pages)
			}
		}
		for {
			if _, err := slow.next(); err != nil {
				break // its stream has ended
			}
		}
	})
}

// A page that reads too slowly is dropped before it misses an event. It gets the rest when it comes
// back.
func TestLatePageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		last := p.mustNext(t)
		time.Sleep(100 * time.Millisecond) // one call between two gatherings
		var recording sync.WaitGroup
		defer recording.Wait()
		recording.Go(func() {
			for range 150 {
				w.ObserveCall(context.Background(), *call(resilience.ReasonOK))
				time.Sleep(200 * time.Millisecond)
			}
		})
		for {
			time.Sleep(2 * time.Second)
			e, err := p.next()
			if err != nil {
				break
			}
			if e.Total != last.Total+1 || e.Missed != 0 {
				t.Fatalf("after a total of %d: got %d with %d missed, want the next call", last.Total, e.Total, e.Missed)
			}
			last = e
		}
		recording.Wait()
		time.Sleep(time.Second)
		back := w.open(t, last.id).mustNext(t)
		if back.Reset || back.Total != 150 || last.Total+uint64(len(back.Calls))+back.Missed != 150 || back.Pages.Dropped != 1 {
			t.Errorf("after %d calls: got %d calls, %d missed, total %d, pages %+v, want a total of 150 and one dropped page", last.Total, len(back.Calls), back.Missed, back.Total, back.Pages)
		}
	})
}

// Without events a page gets heartbeats, so that proxies keep the connection. This page does not
// run, so there are no events.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPage(t, page.Options{})
		w := newWorld(t, page.Options{})
		listener, _ := w.network.Listen(t.Context(), "", "idle:80")
		server := &http.Server{Handler: l.Handler()}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(listener) })
		defer serving.Wait()
		defer func() { _ = server.Close() }()
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://idle:80/api/live", nil)
		resp, err := w.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		p := &stream{lines: lines(resp.Body)}
		p.mustNext(t)
		began := time.Now()
		for range 2 {
			line, err := p.lines.ReadString('\n')
			for err == nil && line == "\n" {
				line, err = p.lines.ReadString('\n')
			}
			if line != ": still here\n" || err != nil {
				t.Errorf("got %q, %v, want the comment \"still here\"", line, err)
			}
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("two heartbeats took %v, want 30s", took)
		}
	})
}

// Streams end when Run ends, so that a server can shut down.
func TestStreamsEndWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		p := w.open(t, "")
		p.mustNext(t)
		w.end()
		if _, err := p.next(); err == nil {
			t.Error("got an event after the end of Run, want the end of the stream")
		}
	})
}

func TestTooManyPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		pages := make([]*stream, 128)
		for i := range pages {
			pages[i] = w.open(t, "")
		}
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://live:80/api/live", nil)
		resp, err := w.http.Do(r)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("page 129: got %v, %v, want status 503 with Retry-After", resp, err)
		}
		resp.Body.Close()
		pages[0].close()
		time.Sleep(time.Second)
		w.open(t, "")
	})
}

// Memory is bounded: this is ten minutes of 2,000 calls a second to ever new upstreams, with long
// paths, fifty pages that read, and one that never reads.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 1,200,000 calls")
	}
	const perSecond, pages = 2000, 50
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		var reading sync.WaitGroup
		defer reading.Wait()
		for range pages {
			p := w.open(t, "")
			reading.Go(func() { _, _ = io.Copy(io.Discard, p.lines) })
			defer p.close()
		}
		w.open(t, "") // this page never reads
		heap := func() uint64 {
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		var before uint64
		path := "/" + strings.Repeat("x", 10_000)
		for tick := range 600 * 5 {
			if tick == 360*5 {
				before = heap()
			}
			for i := range perSecond / 5 {
				c := call(resilience.StatusReason(503), resilience.ReasonOK)
				if i%10 == 0 {
					c.Upstream = fmt.Sprintf("http://host-%d:80", tick*perSecond+i)
				}
				c.Path = path
				w.ObserveCall(context.Background(), *c)
			}
			time.Sleep(time.Second / 5)
		}
		if after := heap(); after > before+before/10+1<<20 {
			t.Errorf("heap grew from %d KiB to %d KiB in four minutes, want at most 10 %% and 1 MiB more", before>>10, after>>10)
		}
		if after := heap(); after > 64<<20 {
			t.Errorf("heap = %d MiB, want at most 64", after>>20)
		} else {
			t.Logf("heap = %d KiB", after>>10)
		}
		e := w.open(t, "").mustNext(t)
		var offered uint32
		for _, s := range e.Series {
			offered += s.Window.Offered
		}
		if len(e.Series) > 65 || offered < 9*perSecond || e.Total != 600*perSecond || e.Pages.Open != pages+1 || e.Pages.Dropped != 1 {
			t.Errorf("got %d series with %d calls in ten seconds, %d in total, pages %+v, want all calls in at most 65 series and one dropped page", len(e.Series), offered, e.Total, e.Pages)
		}
	})
}

func TestAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, page.Options{})
		for range 3 {
			w.ObserveCall(context.Background(), *call(resilience.StatusReason(503), resilience.ReasonOK))
		}
		time.Sleep(time.Millisecond)
		w.ObserveCall(context.Background(), *call())
		time.Sleep(time.Second)
		for path, want := range map[string]struct {
			status int
			text   string
		}{
			"/api/calls":                            {200, `"total":4`},
			"/api/calls?limit=1":                    {200, `"calls":[{"id":4`},
			"/api/calls?reason=breaker_open":        {200, `"calls":[{"id":4`},
			"/api/calls?reason=caller_canceled":     {200, `"calls":[]`},
			"/api/calls?limit=0":                    {400, "limit: must be from 1 to 1024"},
			"/api/calls?limit=1025":                 {400, "limit: must be from 1 to 1024"},
			"/api/calls?limit=ten":                  {400, "limit: must be from 1 to 1024"},
			"/api/calls?upstream=(others)&policy=x": {400, "policy: must not be given with upstream=(others)"},
			"/api/calls?limit=1&limit=2":            {400, "limit: must be given once"},
			"/api/calls?reason=tired":               {400, "reason: must be one of"},
			"/api/calls?reasons=ok":                 {400, `unknown parameter \"reasons\"`},
			"/api/calls?%zz":                        {400, "query"},
			"/api/calls/1":                          {200, `"id":1,`},
			"/api/calls/5":                          {404, "there is no call 5 yet: the newest is call 4"},
			"/api/calls/0":                          {400, "id: must be a number from 1"},
			"/api/calls/-1":                         {400, "id: must be a number from 1"},
			"/api/calls/99999999999999999999999999": {400, "id: must be a number from 1"},
			"/api/calls/x":                          {400, "id: must be a number from 1"},
			"/api/state":                            {200, `"totals":{"offered":4,"good":3,"attempts":6,"attemptsGood":3,"reasons":{"breaker_open":1,"ok":3}}`},
			"/api/state?x":                          {400, "unknown parameter"},
			"/api/faults":                           {404, "--faults"},
			"/api/traffic":                          {404, "only the demo has one"},
			"/api/nothing":                          {404, "there is no /api/nothing here"},
			"/":                                     {200, "<!doctype html>"},
			"/assets/live.js":                       {200, ""},
			"/assets/live.css":                      {200, ""},
			"/assets/live.svg":                      {200, "<svg"},
			"/assets/":                              {404, "there is no /assets/ here"},
		} {
			if status, body := w.get(t, path, nil); status != want.status || !strings.Contains(body, want.text) {
				t.Errorf("%s: got %d %s, want %d with %s", path, status, body, want.status, want.text)
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodDelete, "INVENTED"} {
			if status, body := send(t, w.page, method, "/api/calls", "", nil); status != http.StatusMethodNotAllowed || !strings.Contains(body, "takes GET") {
				t.Errorf("%s: got %d %s, want 405 with the allowed methods", method, status, body)
			}
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		options page.Options
		want    string
	}{
		"nothing":              {page.Options{}, ""},
		"both":                 {page.Options{Faults: "http://flaky-server:5001", Traces: "http://localhost:16686"}, ""},
		"template":             {page.Options{Traces: "https://jaeger.example/ui/trace/{id}?x=1"}, ""},
		"faults without a URL": {page.Options{Faults: "flaky-server:5001"}, "faults: must be a URL such as http://flaky-server:5001"},
		"faults in a file":     {page.Options{Faults: "file:///etc/passwd"}, "faults: must be a URL"},
		"faults with password": {page.Options{Faults: "http://a:secret@flaky-server:5001"}, "faults: must be a URL"},
		"traces with password": {page.Options{Traces: "http://a:secret@jaeger:16686"}, "traces: must be a URL"},
		"traces with a query":  {page.Options{Traces: "http://jaeger:16686?x=1"}, "query but no {id}"},
		"traces as a script":   {page.Options{Traces: "javascript:alert({id})"}, "traces: must be a URL"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := page.New(live.New(), c.options)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error = %q, want it without the password", err)
			}
		})
	}
}

// The page consists of files that it may load under its Content-Security-Policy. They name no other
// address and have nothing inline.
func TestPageIsItsOwn(t *testing.T) {
	l := newPage(t, page.Options{})
	imported := regexp.MustCompile(`(?m)^import .* from "\./([a-z]+\.js)";$`)
	files, types := []string{"/", "/assets/live.js", "/assets/live.css", "/assets/live.svg"}, map[string]string{
		"/": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
	}
	for i := 0; i < len(files); i++ {
		file := files[i]
		r := newRecorder(t, l, file)
		body := r.Body.String()
		if got, want := r.Header().Get("Content-Type"), types[cmp.Or(path.Ext(file), file)]; r.Code != http.StatusOK || got != want {
			t.Errorf("%s: status %d, content type %q, want 200 and %q", file, r.Code, got, want)
		}
		imports := imported.FindAllStringSubmatch(body, -1)
		if got, want := len(imports), strings.Count(body, "\nimport"); got != want {
			t.Errorf("%s: %d imports have the form that this test reads, want all %d", file, got, want)
		}
		for _, m := range imports {
			if module := "/assets/" + m[1]; !slices.Contains(files, module) {
				files = append(files, module)
			}
		}
		for _, bad := range []string{"//cdn", "https://", "innerHTML", "insertAdjacentHTML", "document.write", " style=\"", "<style", "eval(", " onclick", "@import", "import("} {
			if strings.Contains(strings.ToLower(body), strings.ToLower(bad)) {
				t.Errorf("%s contains %q, want none of it", file, bad)
			}
		}
		// The page requests neither SVG's namespace nor the example call.
		if strings.Contains(strings.NewReplacer("http://www.w3.org/2000/svg", "", "http://localhost:8080/process", "").Replace(body), "http://") {
			t.Errorf("%s contains an http address, want relative ones only", file)
		}
	}
	embedded, err := filepath.Glob("assets/*")
	if err != nil || len(embedded)+1 != len(files) || !slices.Contains(files, "/assets/chart.js") {
		t.Errorf("the page uses %q, want chart.js and all files in assets, which are %q (%v)", files, embedded, err)
	}
	w := newRecorder(t, l, "/")
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} {
		if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, want) {
			t.Errorf("Content-Security-Policy %q, want %s", csp, want)
		}
	}
	if again := newRecorder(t, l, "/", "If-None-Match", w.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("If-None-Match with the ETag: status = %d with %d bytes, want 304 without a body", again.Code, again.Body.Len())
	}
}
