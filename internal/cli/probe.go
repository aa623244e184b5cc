package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/rebound-dev/rebound/internal/nethttp"
	"github.com/rebound-dev/rebound/pkg/transport"
)

const (
	// probeTimeout is longer than the default policy's timeout, so that a probe through the client
	// gets the client's own answer.
	probeTimeout = 10 * time.Second
	// probeBody limits how much of a response is read; an upstream's may be endless.
	probeBody = 1 << 20
)

// Probe runs the sub-command `probe URL`. Images without a shell have no curl, but container health
// checks and `helm test` need one. Probe makes one GET within 10 s, without redirects or the
// environment's proxy. It prints the status and, if the response has it, the number of attempts.
// The exit code is 0 for a status from 200 to 299 with a complete body. If done is false, the
// arguments are not for this sub-command.
//
// `probe --each URL` asks every address that DNS has for the URL's host, such as the pods behind a
// headless Service. The exit code is 0 if there is one and all of them answer as above.
func (p Program) Probe(ctx context.Context) (code int, done bool) {
	if len(p.Args) == 0 || p.Args[0] != "probe" {
		return ExitOK, false
	}
	usage := fmt.Errorf("expected one URL such as %s probe http://localhost:8081/readyz", p.Name)
	args := p.Args[1:]
	each := len(args) > 0 && args[0] == "--each"
	if each {
		args = args[1:]
	}
	if len(args) != 1 {
		return p.Fail(ExitUsage, usage), true
	}
	u, err := url.Parse(args[0])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return p.Fail(ExitUsage, fmt.Errorf("%w, got %q", usage, args[0])), true
	}
	if err := nethttp.CheckHost(u); err != nil {
		return p.Fail(ExitUsage, fmt.Errorf("%w, got %q: %w", usage, args[0], err)), true
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if each {
		return p.probeEach(ctx, u), true
	}
	result, err := probe(ctx, u.String(), "")
	if err != nil {
		return p.Fail(ExitFailed, err), true
	}
	fmt.Fprintln(p.Stdout, result)
	return ExitOK, true
}

// probeEach asks every address of u's host, and prints what each of them says.
func (p Program) probeEach(ctx context.Context, u *url.URL) (code int) {
	addresses, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return p.Fail(ExitFailed, err)
	}
	for _, address := range addresses {
		result, err := probe(ctx, u.String(), address)
		if err != nil {
			code = p.Fail(ExitFailed, fmt.Errorf("%s: %w", address, err))
			continue
		}
		fmt.Fprintf(p.Stdout, "%s: %s\n", address, result)
	}
	return code
}

// probe asks target, at address in place of those of its host if address is not empty.
func probe(ctx context.Context, target, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", err
	}
	direct := &http.Transport{DisableKeepAlives: true}
	if address != "" {
		direct.DialContext = func(ctx context.Context, network, to string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(to)
			if err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address, port))
		}
	}
	client := &http.Client{
		Transport:     direct,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	result := target + ": " + response.Status
	if attempts := response.Header.Get(transport.HeaderAttemptCount); attempts != "" {
		result += ", " + transport.HeaderAttemptCount + " " + attempts
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, probeBody)); err != nil {
		return "", fmt.Errorf("%s, reading the body: %w", result, err)
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return "", errors.New(result)
	}
	return result, nil
}
