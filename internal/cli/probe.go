package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/rebound-dev/rebound/internal/config"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	// probeTimeout is above the whole timeout of the default policy, so that a probe through the client
	// sees the client's own answer.
	probeTimeout = 10 * time.Second
	// probeBody bounds what is read of an answer; an upstream's may have no end.
	probeBody = 1 << 20
)

// Probe is the sub-command `probe URL`: an image without a shell has no curl, and health checks of containers
// and `helm test` need one. It makes one GET, without redirects and without the environment's proxy, within
// 10 s, and prints the status and how many attempts it took if that is said. The exit code is 0 for a status
// from 200 to 299 with a whole body. When done is false, the arguments ask for something else.
func (p Program) Probe(ctx context.Context) (code int, done bool) {
	if len(p.Args) == 0 || p.Args[0] != "probe" {
		return ExitOK, false
	}
	usage := fmt.Errorf("expected one URL such as %s probe http://localhost:8081/readyz", p.Name)
	if len(p.Args) != 2 {
		return p.Fail(ExitUsage, usage), true
	}
	u, err := url.Parse(p.Args[1])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return p.Fail(ExitUsage, fmt.Errorf("%w, got %q", usage, p.Args[1])), true
	}
	if err := config.CheckHost(u); err != nil {
		return p.Fail(ExitUsage, fmt.Errorf("%w, got %q: %w", usage, p.Args[1], err)), true
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	said, err := probe(ctx, p.Args[1])
	if err != nil {
		return p.Fail(ExitFailed, err), true
	}
	fmt.Fprintln(p.Stdout, said)
	return ExitOK, true
}

func probe(ctx context.Context, target string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	said := target + ": " + response.Status
	if attempts := response.Header.Get(transport.HeaderAttemptCount); attempts != "" {
		said += ", " + transport.HeaderAttemptCount + " " + attempts
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, probeBody)); err != nil {
		return "", fmt.Errorf("%s, and then its body: %w", said, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return "", errors.New(said)
	}
	return said, nil
}
