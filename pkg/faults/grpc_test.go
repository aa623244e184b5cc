package faults_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/faults"
)

// Without a section grpc, calls over gRPC get the codes of the HTTP statuses, and the document is
// shown as before.
func TestGRPCFollowsTheStatuses(t *testing.T) {
	for status, want := range map[int]int{
		400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14, // gRPC's table
		402: 2, 500: 2, 599: 2,
	} {
		i := injector(t, faults.Spec{ErrorRate: 1, Statuses: []int{status}}, 1)
		got := i.Next("").GRPC
		if (got != faults.GRPCFate{Code: want, After: faults.AfterNothing, Messages: 1, Break: faults.BreakStream}) {
			t.Errorf("%d: got %+v, want code %d at once", status, got, want)
		}
		yaml, err := config.Marshal(i.Spec())
		if err != nil {
			t.Fatal(err)
		}
		js, err := json.Marshal(i.Spec())
		if err != nil {
			t.Fatal(err)
		}
		if shown := string(yaml) + string(js); strings.Contains(shown, "grpc") {
			t.Errorf("got %s, want no section grpc", shown)
		}
	}
	if got := injector(t, faults.Spec{HangRate: 1}, 1).Next("").GRPC.Code; got != 0 {
		t.Errorf("another fault: got code %d, want 0", got)
	}
}

// The code depends on the seed and the arrival, and does not change the rest of the fate.
func TestGRPCCodes(t *testing.T) {
	spec := faults.Spec{ErrorRate: 0.5, Statuses: []int{500, 503}}
	plain := injector(t, spec, 1)
	spec.GRPC.Codes = []string{"ABORTED", "UNAVAILABLE"}
	with := injector(t, spec, 1)
	seen := map[int]int{}
	for range 1000 {
		a, b := plain.Next(""), with.Next("")
		seen[b.GRPC.Code]++
		if (b.GRPC.Code == 0) != (b.Fault != faults.FaultError) {
			t.Fatalf("got %+v, want a code exactly with an error", b)
		}
		a.GRPC, b.GRPC = faults.GRPCFate{}, faults.GRPCFate{}
		if a != b {
			t.Fatalf("got %+v, want %+v as without codes", b, a)
		}
	}
	if len(seen) != 3 || seen[10] < 150 || seen[14] < 150 {
		t.Errorf("got codes %v, want 10 and 14 about as often", seen)
	}
}

func TestGRPCPushback(t *testing.T) {
	for text, want := range map[string]string{"": "", "100ms": "100", "1.5s": "1500", "100us": "1", "0s": "0", "-5ms": "-5", "stop": "-1", "soon": "soon", "7": "7"} {
		if got := injector(t, faults.Spec{ErrorRate: 1, GRPC: faults.GRPC{Pushback: text}}, 1).Next("").GRPC.Pushback; got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// A section is shown whole, and what is shown can be read again.
func TestGRPCDocument(t *testing.T) {
	var spec faults.Spec
	if err := config.Decode("faults", []byte("errorRate: 1\ngrpc: {after: message}\n"), &spec); err != nil {
		t.Fatal(err)
	}
	shown, err := config.Marshal(injector(t, spec, 1).Spec())
	if err != nil {
		t.Fatal(err)
	}
	if want := "grpc:\n  codes: []\n  after: message\n  messages: 1\n  pushback: \"\"\n  break: stream\n"; !strings.Contains(string(shown), want) {
		t.Errorf("got %s, want\n%s", shown, want)
	}
	var again faults.Spec
	if err := config.Decode("faults", shown, &again); err != nil {
		t.Error(err)
	}
	err = config.Decode("faults.yaml", []byte("grpc:\n  codes: [UNAVAILABLE, OK]\n  after: trailers\n  retries: 1\n"), &spec)
	for _, want := range []string{"faults.yaml:2:24: grpc.codes[1]", "faults.yaml:3:10: grpc.after", "faults.yaml:4:3: grpc.retries"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}
