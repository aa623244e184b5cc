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

// FuzzDecode: whatever the bytes are, Decode ends without a panic; a mistake has a message; and what is
// accepted prints as a document that is accepted, and prints the same again.
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
				t.Fatalf("error is %T %v, want mistakes", err, err)
			}
			for _, m := range *mistakes {
				if m.Message == "" {
					t.Fatalf("a mistake without a message: %+v", *m)
				}
			}
			return
		}
		if _, err := config.Keys("f", data); err != nil {
			t.Fatalf("accepted, but its keys are not: %v", err)
		}
		printed, err := config.Marshal(first)
		if err != nil {
			t.Fatalf("accepted, but cannot be printed: %v", err)
		}
		second := document{}
		if err := config.Decode("f", printed, &second); err != nil {
			t.Fatalf("what was printed is refused: %v\n%s", err, printed)
		}
		again, err := config.Marshal(second)
		if err != nil || !bytes.Equal(printed, again) {
			t.Fatalf("printed again (error %v) it differs:\n%s\n%s", err, printed, again)
		}
	})
}
