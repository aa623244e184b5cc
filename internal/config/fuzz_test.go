package config_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/internal/mistake"
)

// FuzzDecode checks that Decode never panics, that every mistake has a message, and that an
// accepted document prints as an accepted document that prints the same again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"routes":[{"name":"a","match":"/"}],"policies":{"x":{"timeout":"1s"}}}`))
	f.Add([]byte("routes: &r [{name: \"yes\", match: \"\\u2028\"}]\npolicies: {\"a.b\": {<<: {timeout: 0}}}\n"))
	f.Add([]byte("limits: {ratio: 1e-7, size: 0x10, note: '0.30', extra: {\"~\": ' x\n\n  y'}}\n"))
	malformed, err := filepath.Glob("testdata/malformed/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range malformed {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first := document{}
		if err := config.Decode("f", data, &first); err != nil {
			mistakes, ok := errors.AsType[*mistake.List](err)
			if !ok || len(*mistakes) == 0 {
				t.Fatalf("got error %T %v, want a list of mistakes", err, err)
			}
			for _, m := range *mistakes {
				if m.Message == "" {
					t.Fatalf("got mistake %+v, want one with a message", *m)
				}
			}
			return
		}
		if _, err := config.Keys("f", data); err != nil {
			t.Fatalf("Decode accepts the document, Keys does not: %v", err)
		}
		printed, err := config.Marshal(first)
		if err != nil {
			t.Fatalf("Decode accepts the document, Marshal does not: %v", err)
		}
		second := document{}
		if err := config.Decode("f", printed, &second); err != nil {
			t.Fatalf("Decode rejects the printed document: %v\n%s", err, printed)
		}
		again, err := config.Marshal(second)
		if err != nil || !bytes.Equal(printed, again) {
			t.Fatalf("printed again (error %v), got\n%s\nwant\n%s", err, again, printed)
		}
	})
}
