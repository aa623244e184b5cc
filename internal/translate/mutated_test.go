package translate_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/translate"
	"github.com/rebound-dev/rebound/pkg/endpoint"
)

var aNumber = regexp.MustCompile(`\b\d+(\.\d+)?\b`)

// However extreme the numbers of a file, its translation is valid.
func TestExtremeNumbers(t *testing.T) {
	for _, path := range examples(t) {
		if strings.HasPrefix(filepath.Base(path), "real-") {
			continue // the other examples have the same fields
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		system := foreign.System(filepath.Base(filepath.Dir(path)))
		for _, at := range aNumber.FindAllIndex(data, -1) {
			for _, number := range []string{"0", "1", "100", "599", "99999", "4294967295", "0.001"} {
				text := string(data[:at[0]]) + number + string(data[at[1]:])
				imported, err := foreign.Import(system, "f", []byte(text))
				if err != nil {
					continue
				}
				for _, p := range imported.Policies {
					r := translate.Policy(p)
					err := r.Policy.Validate()
					if r.Eject != nil && err == nil {
						of := endpoint.DefaultPolicy()
						of.Resolve, of.Eject = endpoint.ResolveDNS, *r.Eject
						err = of.Validate()
					}
					if err != nil {
						t.Errorf("%s: %s at byte %d: %s: %v", path, number, at[0], p.Name, err)
					}
				}
			}
		}
	}
}
