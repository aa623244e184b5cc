package flaky_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebound-dev/rebound/internal/flaky"
	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestErrorStatus(t *testing.T) {
	w := start(t, faults.Spec{ErrorRate: 1, Statuses: []int{599}})
	a := w.must(t, http.MethodGet, w.data+"/process", "")
	if got, want := wantProblem(t, a, 599), "injected fault: error (arrival 1)"; got != want {
		t.Errorf("detail %q, want %q", got, want)
	}
	if got := a.header.Get("Retry-After"); got != "" {
		t.Errorf("Retry-After %q, want none", got)
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]string{
		"2s": "2", "1500ms": "2", "2m": "120", "0s": "0", "-5s": "-5s", "120": "120", "soon": "soon", "9999999999": "9999999999",
	} {
		t.Run(text, func(t *testing.T) {
			w := start(t, faults.Spec{ErrorRate: 1, RetryAfter: text})
			if got := w.must(t, http.MethodGet, w.data+"/process", "").header.Get("Retry-After"); got != want {
				t.Errorf("Retry-After %q, want %q", got, want)
			}
		})
	}
	t.Run("date", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := startPiped(t, faults.Spec{ErrorRate: 1, RetryAfter: "date"})
			got := w.must(t, http.MethodGet, w.data+"/process", "").header.Get("Retry-After")
			// The bubble's clock starts at midnight UTC, 2000-01-01.
			if want := "Sat, 01 Jan 2000 00:00:02 GMT"; got != want {
				t.Errorf("Retry-After %q, want %q", got, want)
			}
		})
	})
}

func TestReset(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		w := start(t, faults.Spec{ResetRate: 1})
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			path := map[string]string{http.MethodGet: "/process", http.MethodPost: "/orders"}[method]
			if a, err := w.do(t.Context(), method, w.data+path, "{}"); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %+v, %v; want a connection reset", method, a, err)
			}
		}
	})
	t.Run("TLS", func(t *testing.T) {
		w, server := startTLS(t, faults.Spec{ResetRate: 1}, false)
		if a, err := w.do(t.Context(), http.MethodGet, server.URL+"/process", ""); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%+v, %v; want a connection reset", a, err)
		}
	})
	t.Run("HTTP/2 resets the stream", func(t *testing.T) {
		w, server := startTLS(t, faults.Spec{ResetRate: 1}, true)
		if a, err := w.do(t.Context(), http.MethodGet, server.URL+"/process", ""); err == nil {
			t.Errorf("%+v, want a stream error", a)
		}
		if a := w.must(t, http.MethodGet, server.URL+"/", ""); a.status != http.StatusNotFound {
			t.Errorf("status %d, want 404 on the same connection", a.status)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := startPiped(t, faults.Spec{ResetRate: 1})
			if a, err := w.do(t.Context(), http.MethodGet, w.data+"/process", ""); !errors.Is(err, io.EOF) {
				t.Errorf("%+v, %v; want the connection closed", a, err)
			}
		})
	})
}

func startTLS(t *testing.T, spec faults.Spec, http2 bool) (world, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(newServer(t, spec).Data())
	server.EnableHTTP2 = http2
	if !http2 {
		server.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return world{client: server.Client()}, server
}

func TestTruncate(t *testing.T) {
	check := func(t *testing.T, w world) {
		t.Helper()
		a, err := w.do(t.Context(), http.MethodGet, w.data+"/process", "")
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%+v, %v; want an unexpected EOF", a, err)
		}
		var full int
		if _, err := fmt.Sscan(a.header.Get("Content-Length"), &full); err != nil || a.status != http.StatusOK || len(a.body) != full/2 || full < 2 {
			t.Errorf("%d with %d of %d bytes, want 200 with half of them", a.status, len(a.body), full)
		}
	}
	t.Run("TCP", func(t *testing.T) { check(t, start(t, faults.Spec{TruncateRate: 1})) })
	t.Run("pipe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { check(t, startPiped(t, faults.Spec{TruncateRate: 1})) })
	})
}

// tracked counts running handlers, so that a test sees whether one stays behind.
func tracked(h http.Handler) (http.Handler, *sync.WaitGroup) {
	var wg sync.WaitGroup
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wg.Add(1)
		defer wg.Done()
		h.ServeHTTP(w, r)
	}), &wg
}

func TestHangEndsWithItsCaller(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			arrived := make(chan struct{})
			s := newServer(t, faults.Spec{HangRate: 1}, func(o *flaky.Options) {
				o.Observe = func(context.Context, faults.Fate) { close(arrived) }
			})
			handler, handlers := tracked(s.Data())
			server := httptest.NewServer(handler)
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-arrived
				cancel()
			}()
			path := map[string]string{http.MethodGet: "/process", http.MethodPost: "/orders"}[method]
			w := world{client: server.Client()}
			if a, err := w.do(ctx, method, server.URL+path, "{}"); !errors.Is(err, context.Canceled) {
				t.Errorf("%+v, %v; want no answer until the caller cancels", a, err)
			}
			handlers.Wait() // would block if a handler were still running
		})
	}
}

func TestHangOutlastsAnyPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{HangRate: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if a, err := w.do(ctx, http.MethodGet, w.data+"/process", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v, %v; want no answer for a day", a, err)
		}
	})
}

func TestStopEndsHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{HangRate: 1})
		go func() {
			time.Sleep(time.Hour)
			w.Stop()
		}()
		start := time.Now()
		for range 2 { // the first hangs before Stop, the second arrives after it
			if a, err := w.do(t.Context(), http.MethodGet, w.data+"/process", ""); !errors.Is(err, io.EOF) {
				t.Errorf("%+v, %v; want the connection closed", a, err)
			}
		}
		if took := time.Since(start); took != time.Hour {
			t.Errorf("ended after %v, want 1h", took)
		}
	})
}

func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{SlowBodyRate: 1})
		start := time.Now()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.data+"/process", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := w.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("the headers took %v, want them at once", took)
		}
		pieces, total := 0, 0
		for buf := make([]byte, 1024); err == nil; {
			var n int
			n, err = resp.Body.Read(buf)
			total += n
			if n > 0 {
				pieces++
			}
		}
		if took := time.Since(start); !errors.Is(err, io.EOF) || pieces != 10 || int64(total) != resp.ContentLength || took != time.Second {
			t.Errorf("%d of %d bytes in %d pieces over %v, %v; want all in 10 over 1s", total, resp.ContentLength, pieces, took, err)
		}
	})
}

func TestSlowBodyEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{SlowBodyRate: 1})
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		if a, err := w.do(ctx, http.MethodGet, w.data+"/process", ""); !errors.Is(err, context.DeadlineExceeded) || len(a.body) == 0 {
			t.Errorf("%+v, %v; want a part of the answer", a, err)
		}
	})
}

func TestHead(t *testing.T) {
	for name, spec := range map[string]faults.Spec{"none": {}, "slow body": {SlowBodyRate: 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startPiped(t, spec)
				if a := w.must(t, http.MethodHead, w.data+"/process", ""); a.status != http.StatusOK || a.body != "" {
					t.Errorf("%+v, want 200 without a body", a)
				}
			})
		})
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startPiped(t, faults.Spec{ErrorRate: 1, Latency: faults.Latency{Distribution: faults.DistributionFixed, Value: 3 * time.Second}})
		start := time.Now()
		w.must(t, http.MethodGet, w.data+"/process", "")
		if took := time.Since(start); took != 3*time.Second {
			t.Errorf("took %v, want 3s: an error takes its time too", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a, err := w.do(ctx, http.MethodGet, w.data+"/process", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v, %v; want no answer", a, err)
		}
	})
}
