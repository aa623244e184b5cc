package grpcwire_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/rebound-dev/rebound/internal/grpcwire"
)

func TestIs(t *testing.T) {
	for value, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/GRPC; charset=utf-8": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false, "application/grp": false,
	} {
		if got := grpcwire.Is(http.Header{"Content-Type": {value}}); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	if grpcwire.Is(nil) {
		t.Error("no header is taken for gRPC")
	}
}

func TestTimeout(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"100m": 100 * time.Millisecond, "1S": time.Second, "2M": 2 * time.Minute, "3H": 3 * time.Hour, "7u": 7 * time.Microsecond,
		"9n": 9, "0m": 0, "99999999H": 1<<63 - 1,
	} {
		if got, ok := grpcwire.Timeout(http.Header{"Grpc-Timeout": {value}}); !ok || got != want {
			t.Errorf("%q: got %v, %v, want %v", value, got, ok, want)
		}
	}
	for _, value := range []string{"", "m", "100", "100s", "-1m", "+1m", "1.5S", "123456789m", "1 m"} {
		if got, ok := grpcwire.Timeout(http.Header{"Grpc-Timeout": {value}}); ok {
			t.Errorf("%q: got %v, want none", value, got)
		}
	}
}

// A formatted timeout is never shorter than the limit, and hardly longer.
func FuzzFormatTimeout(f *testing.F) {
	for _, d := range []time.Duration{0, 1, 99_999_999, 100_000_000, 1500 * time.Millisecond, time.Hour, 1<<63 - 1} {
		f.Add(int64(d))
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := max(time.Duration(n), 0)
		text := grpcwire.FormatTimeout(d)
		got, ok := grpcwire.Timeout(http.Header{"Grpc-Timeout": {text}})
		if !ok || got < d || float64(got) > float64(max(d, 1))*1.0001 {
			t.Errorf("%v: got %q, which is %v, %v", d, text, got, ok)
		}
	})
}

func TestPushback(t *testing.T) {
	for value, want := range map[string]struct {
		wait time.Duration
		ok   bool
	}{"0": {0, true}, "1500": {1500 * time.Millisecond, true}, "-1": {0, false}, "soon": {0, false}, "": {0, false}, "99999999999": {0, false}} {
		if wait, given, ok := grpcwire.Pushback(http.Header{"Grpc-Retry-Pushback-Ms": {value}}); wait != want.wait || !given || ok != want.ok {
			t.Errorf("%q: got %v, %v, %v, want %v, %v", value, wait, given, ok, want.wait, want.ok)
		}
	}
	if _, given, ok := grpcwire.Pushback(nil); given || !ok {
		t.Error("without a pushback another attempt is allowed")
	}
}

// The codes are those of grpc-go.
func TestCodes(t *testing.T) {
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		var theirs codes.Code
		name := grpcwire.Code(c).String()
		if err := theirs.UnmarshalJSON([]byte(`"` + name + `"`)); err != nil || theirs != c {
			t.Errorf("code %d is %s: grpc-go takes it for %v, %v", c, name, theirs, err)
		}
		if got, ok := grpcwire.ParseCode(name); !ok || got != grpcwire.Code(c) {
			t.Errorf("%s: got %v, %v", name, got, ok)
		}
	}
	for value, want := range map[string]grpcwire.Code{"14": grpcwire.Unavailable, "17": grpcwire.Unknown, "x": grpcwire.Unknown, "-1": grpcwire.Unknown} {
		if got, ok := grpcwire.Status(http.Header{"Grpc-Status": {value}}); !ok || got != want {
			t.Errorf("%q: got %v, %v, want %v", value, got, ok, want)
		}
	}
}

func TestMessage(t *testing.T) {
	long := strings.Repeat("x", 600)
	for value, want := range map[string]string{
		"":                       "",
		"50 %25 gone%0A%C3%BC":   "50 % gone\nü",
		"100 %, %zz and %4":      "100 %, %zz and %4",
		"no %FF text":            "no  text",
		long:                     long[:512] + "…",
		strings.Repeat("x", 512): long[:512],
	} {
		if got := grpcwire.Message(http.Header{"Grpc-Message": {value}}); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
	if got := grpcwire.Message(nil); got != "" {
		t.Errorf("got %q without a message", got)
	}
}

func TestEncodeMessage(t *testing.T) {
	if got, want := grpcwire.EncodeMessage("50 % gone\nü"), "50 %25 gone%0A%C3%BC"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := grpcwire.EncodeMessage(strings.Repeat("a ~", 3)); got != "a ~a ~a ~" {
		t.Errorf("got %s, want it unchanged", got)
	}
}
