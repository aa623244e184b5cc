package faults_test

import (
	"encoding/json"
	"github.com/rebound-dev/rebound/internal/mistake"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/pkg/faults"
)

func TestValidate(t *testing.T) {
	fixed := func(d time.Duration) faults.Latency {
		return faults.Latency{Distribution: faults.DistributionFixed, Value: d}
	}
	tests := map[string]struct {
		spec faults.Spec
		want map[string]string // part of the text, by path
	}{
		"zero value":      {spec: faults.Spec{}},
		"default":         {spec: faults.Default()},
		"rates fill up 1": {spec: faults.Spec{ErrorRate: 0.1, ResetRate: 0.2, HangRate: 0.7}},
		"rates out of range": {
			spec: faults.Spec{ErrorRate: 1.5, ResetRate: -0.1, TruncateRate: math.NaN(), HangRate: math.Inf(1), SlowBodyRate: 2},
			want: map[string]string{
				"errorRate": "from 0 to 1, got 1.5", "resetRate": "got -0.1", "truncateRate": "got NaN", "hangRate": "got +Inf",
				"slowBodyRate": "got 2",
			},
		},
		"rates above 1 together": {
			spec: faults.Spec{ErrorRate: 0.6, HangRate: 0.3, SlowBodyRate: 0.2},
			want: map[string]string{"slowBodyRate": "add up to at most 1, got 1.1"},
		},
		"statuses": {
			spec: faults.Spec{Statuses: []int{503, 200, 600}},
			want: map[string]string{"statuses[1]": "from 400 to 599, got 200", "statuses[2]": "got 600"},
		},
		"retry after that no header carries": {
			spec: faults.Spec{RetryAfter: "2s\r\nSet-Cookie: a=b"},
			want: map[string]string{"retryAfter": "without control characters"},
		},
		"counts": {
			spec: faults.Spec{FailFirst: -1, Capacity: faults.Capacity{Workers: -1, ServiceTime: -1, Queue: -2}},
			want: map[string]string{
				"failFirst": "0 or more, got -1", "capacity.workers": "got -1", "capacity.serviceTime": "0s or more", "capacity.queue": "got -2",
			},
		},
		"effect": {
			spec: faults.Spec{Effect: "during"},
			want: map[string]string{"effect": `before or after, got "during"`},
		},
		"grpc": {
			spec: faults.Spec{GRPC: faults.GRPC{Codes: []string{"UNAVAILABLE", "OK", "14", "unavailable"}, After: "trailers", Messages: -1, Pushback: " ", Break: "wire"}},
			want: map[string]string{
				"grpc.codes[1]": `other than OK, such as UNAVAILABLE, got "OK"`, "grpc.codes[2]": `got "14"`, "grpc.codes[3]": `got "unavailable"`,
				"grpc.after": `nothing, headers or message, got "trailers"`, "grpc.messages": "0 or more, got -1",
				"grpc.pushback": "without blanks", "grpc.break": `stream, connection or end, got "wire"`,
			},
		},
		"work that takes no time": {
			spec: faults.Spec{Capacity: faults.Capacity{Workers: 2}},
			want: map[string]string{"capacity.serviceTime": "more than 0s with 2 workers"},
		},
		"work that takes the latency": {
			spec: faults.Spec{Capacity: faults.Capacity{Workers: 2}, Latency: fixed(time.Second)},
		},
		"unknown distribution": {
			spec: faults.Spec{Latency: faults.Latency{Distribution: "normal", Median: 1}},
			want: map[string]string{"latency.distribution": `lognormal or pareto, got "normal"`},
		},
		"fixed without a value": {
			spec: faults.Spec{Latency: fixed(0)},
			want: map[string]string{"latency.value": "more than 0s with distribution fixed"},
		},
		"uniform upside down": {
			spec: faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionUniform, Min: 2, Max: 1}},
			want: map[string]string{"latency.max": "at least min (2ns), got 1ns"},
		},
		"uniform below zero": {
			spec: faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionUniform, Min: -1}},
			want: map[string]string{"latency.min": "0s or more, got -1ns", "latency.max": "more than 0s"},
		},
		"lognormal upside down": {
			spec: faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionLognormal, Median: 2, P99: 1}},
			want: map[string]string{"latency.p99": "at least the median (2ns), got 1ns"},
		},
		"pareto without parameters": {
			spec: faults.Spec{Latency: faults.Latency{Distribution: faults.DistributionPareto, Alpha: math.NaN()}},
			want: map[string]string{"latency.min": "more than 0s", "latency.alpha": "above 0, got NaN"},
		},
		"parameters of another distribution": {
			spec: faults.Spec{Latency: faults.Latency{Value: 1, Min: 1, Max: 1, Median: 1, P99: 1, Alpha: 1}},
			want: map[string]string{
				"latency.value": "distribution none does not use it", "latency.min": "does not use", "latency.max": "does not use",
				"latency.median": "does not use", "latency.p99": "does not use", "latency.alpha": "does not use",
			},
		},
		"window": {
			spec: faults.Spec{Schedule: []faults.Window{
				{For: 1},
				{
					At: -1, ErrorRate: new(2.0), Statuses: []int{99}, RetryAfter: new("\n"), Latency: new(fixed(-1)),
					Capacity: &faults.CapacityChange{Workers: new(-1)},
				},
			}},
			want: map[string]string{
				"schedule[1].at": "0s or more", "schedule[1].for": "more than 0s", "schedule[1].errorRate": "got 2",
				"schedule[1].statuses[0]": "got 99", "schedule[1].retryAfter": "control", "schedule[1].latency.value": "got -1ns",
				"schedule[1].capacity.workers": "got -1",
			},
		},
		"window that makes the sum too large": {
			spec: faults.Spec{ErrorRate: 0.5, Schedule: []faults.Window{
				{At: 0, For: 10, HangRate: new(0.5)},
				{At: 20, For: 10, HangRate: new(0.6)},
			}},
			want: map[string]string{"schedule[1]": "at most 1, got 1.1"},
		},
		"windows that are too much only together": {
			spec: faults.Spec{Schedule: []faults.Window{
				{At: 0, For: 20, ErrorRate: new(0.6)},
				{At: 10, For: 20, HangRate: new(0.6)},
			}},
			want: map[string]string{"schedule[1]": "at most 1, got 1.2"},
		},
		"windows that are too much when one between them ends": {
			spec: faults.Spec{Schedule: []faults.Window{
				{At: 0, For: 30, ErrorRate: new(0.6)},
				{At: 5, For: 30, HangRate: new(0.6)},
				{At: 0, For: 10, ErrorRate: new(0.0)},
			}},
			want: map[string]string{"schedule[1]": "at most 1, got 1.2"},
		},
		"a window without end": {
			spec: faults.Spec{Schedule: []faults.Window{{At: time.Second, For: math.MaxInt64, ErrorRate: new(1.0)}}},
		},
		"too many windows": {
			spec: faults.Spec{Schedule: make([]faults.Window, 1001)},
			want: map[string]string{"schedule": "at most 1000 windows, got 1001"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := mistakes(tt.spec.Validate())
			if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(tt.want))) {
				t.Fatalf("mistakes at %v, want at %v", got, tt.want)
			}
			for path, text := range tt.want {
				if !strings.Contains(got[path], text) {
					t.Errorf("%s: %q, want it to say %q", path, got[path], text)
				}
			}
			if _, err := faults.New(tt.spec, 1); (err != nil) != (len(tt.want) > 0) {
				t.Errorf("New: got %v, want an error only if there are mistakes", err)
			}
		})
	}
}

// mistakes returns the texts by path.
func mistakes(err error) map[string]string {
	var list mistake.List
	list.Merge("", err)
	found := map[string]string{}
	for _, m := range list {
		found[m.Path] = m.Message
	}
	return found
}

func TestNewNamesTheField(t *testing.T) {
	_, err := faults.New(faults.Spec{ErrorRate: 2, FailFirst: -1}, 1)
	for _, want := range []string{"errorRate: expected a rate from 0 to 1, got 2", "failFirst: expected 0 or more, got -1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want it to say %q", err, want)
		}
	}
}

func TestSpecShowsWhatIsInForce(t *testing.T) {
	injector, err := faults.New(faults.Spec{Schedule: []faults.Window{{For: 1, Statuses: []int{}, Latency: &faults.Latency{}}}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	got := injector.Spec()
	if !slices.Equal(got.Statuses, []int{503}) || got.Effect != faults.EffectBefore || got.Latency.Distribution != faults.DistributionNone {
		t.Errorf("spec %+v, want statuses [503], effect before, distribution none", got)
	}
	if w := got.Schedule[0]; !slices.Equal(w.Statuses, []int{503}) || w.Latency.Distribution != faults.DistributionNone {
		t.Errorf("window %+v, want statuses [503], distribution none", w)
	}
}

// Specs are copied on the way in and out: only Replace changes the Spec in force.
func TestSpecSharesNothing(t *testing.T) {
	in := faults.Spec{
		Statuses: []int{500},
		GRPC:     faults.GRPC{Codes: []string{"ABORTED"}},
		Schedule: []faults.Window{{
			For: 1, ErrorRate: new(0.5), Statuses: []int{501}, Latency: &faults.Latency{},
			Capacity: &faults.CapacityChange{Workers: new(0)},
		}},
	}
	injector, err := faults.New(in, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []faults.Spec{in, injector.Spec()} {
		s.Statuses[0] = 599
		s.GRPC.Codes[0] = "UNKNOWN"
		s.Schedule[0].Statuses[0] = 599
		*s.Schedule[0].ErrorRate = 1
		s.Schedule[0].Latency.Value = 1
		*s.Schedule[0].Capacity.Workers = 9
	}
	got := injector.Spec()
	w := got.Schedule[0]
	if got.Statuses[0] != 500 || got.GRPC.Codes[0] != "ABORTED" || w.Statuses[0] != 501 || *w.ErrorRate != 0.5 || w.Latency.Value != 0 || *w.Capacity.Workers != 0 {
		t.Errorf("got spec %+v, window %+v, want them unchanged from outside", got, w)
	}
}

func TestJSON(t *testing.T) {
	injector, err := faults.New(faults.Spec{
		ErrorRate: 0.25,
		Latency:   faults.Latency{Distribution: faults.DistributionLognormal, Median: 20 * time.Millisecond, P99: 200 * time.Millisecond},
		Capacity:  faults.Capacity{Workers: 2, ServiceTime: time.Second},
		Schedule: []faults.Window{{
			At: 30 * time.Second, For: 20 * time.Second, ErrorRate: new(0.0),
			Capacity: &faults.CapacityChange{ServiceTime: new(90 * time.Second)},
		}},
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(injector.Spec())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"errorRate":0.25,"statuses":[503],"retryAfter":"",` +
		`"latency":{"distribution":"lognormal","median":"20ms","p99":"200ms"},` +
		`"resetRate":0,"truncateRate":0,"hangRate":0,"slowBodyRate":0,"failFirst":0,` +
		`"capacity":{"workers":2,"serviceTime":"1s","queue":0},"honourDeadline":false,"effect":"before",` +
		`"schedule":[{"at":"30s","for":"20s","errorRate":0,"capacity":{"serviceTime":"1m30s"}}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
