package spans_test

import (
	"testing"

	"github.com/rebound-dev/rebound/internal/testkit/spans"
)

func TestRecord(t *testing.T) {
	provider, recorded := spans.Record()
	ctx, outer := provider.Tracer("test").Start(t.Context(), "outer")
	_, inner := provider.Tracer("test").Start(ctx, "inner")
	inner.End()
	if got := recorded.GetSpans(); len(got) != 1 || got[0].Name != "inner" {
		t.Errorf("got %d spans before the outer one ends, want only the inner one", len(got))
	}
	outer.End()
	if got := recorded.GetSpans(); len(got) != 2 || got[0].Parent.SpanID() != got[1].SpanContext.SpanID() {
		t.Errorf("got %d spans, want the inner one and its parent", len(got))
	}
}
