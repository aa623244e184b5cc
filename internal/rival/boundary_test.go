package rival_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/foreign"
	"github.com/rebound-dev/rebound/internal/rival"
	"github.com/rebound-dev/rebound/internal/testkit/golden"
	"github.com/rebound-dev/rebound/internal/virtual"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// TestBoundaryTable writes the table of boundaries in docs/import.md: one policy of a typical file
// for each system. It takes minutes, so it runs only on demand:
//
//	go test -run TestBoundaryTable -timeout 30m -v ./internal/rival -update
func TestBoundaryTable(t *testing.T) {
	if !golden.Updating() {
		t.Skip("writes a table of docs/import.md with -update")
	}
	s, err := lab.LoadScenario("outage-hanging")
	if err != nil {
		t.Fatal(err)
	}
	s = s.ForBoundary()
	var table strings.Builder
	table.WriteString("| system | file | policy | no longer recovers from, % |\n|---|---|---|---|\n")
	for _, c := range []struct{ file, policy string }{
		{"aws/config", "default"},
		{"caddy/config.json", "shop.example.com /api/*"},
		{"dapr/full.yaml", "app/orders"},
		{"dotnet/appsettings.json", "HttpClients.Catalog.Resilience"},
		{"envoy/routes.json", "api/1/api-blue"},
		{"envoy-gateway/with-route.yaml", "orders/0"},
		{"gateway-api/retry.yaml", "storefront/api"},
		{"grpc/retry.json", "shop.v1.Orders"},
		{"haproxy/listen.cfg", "api"},
		{"istio/folk.yaml", "ratings/0"},
		{"linkerd/service.yaml", "catalog"},
		{"nginx/api.conf", "api.example.com /"},
		{"resilience4j/application.yml", "inventory"},
		{"traefik/dynamic.yaml", "shop"},
	} {
		began := time.Now()
		policy := policyOf(t, c.file, c.policy)
		found, err := lab.FindBoundary(t.Context(), 3, func(ctx context.Context, percent int, seed uint64) (recovers bool, err error) {
			const capacity = 200
			load := lab.Load{Rate: capacity * float64(percent) / lab.BoundarySteps, Clients: 20, Capacity: capacity, Seed: seed}
			virtual.Run(func() {
				var r *lab.Result
				if r, err = (lab.Experiment{Client: rival.New(policy), Scenario: s, Load: load}).Run(ctx); err == nil {
					recovers = r.RecoveryS != nil
				}
			})
			return recovers, err
		})
		if err != nil {
			t.Fatal(err)
		}
		from := fmt.Sprint(found.Percent)
		switch {
		case found.Percent == lab.BoundarySteps:
			from = "always recovers"
		case found.Low != found.High:
			from = fmt.Sprintf("%d (%d to %d)", found.Percent, found.Low, found.High)
		}
		t.Logf("%s: %+v, in %v", c.file, found, time.Since(began).Round(time.Second/10))
		system, file, _ := strings.Cut(c.file, "/")
		fmt.Fprintf(&table, "| %s | [%s](../internal/foreign/testdata/%s) | `%s` | %s |\n", system, file, c.file, c.policy, from)
	}
	golden.Table(t, "../../docs/import.md", "boundaries", table.String())
}

// policyOf returns a policy of a file in the test data of the import.
func policyOf(t *testing.T, file, name string) foreign.Policy {
	t.Helper()
	path := filepath.Join("../foreign/testdata", filepath.FromSlash(file))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	system, _, _ := strings.Cut(file, "/")
	imported, err := foreign.Import(foreign.System(system), path, data)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(imported.Policies, func(p foreign.Policy) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("%s has no policy %q", file, name)
	}
	return imported.Policies[i]
}
