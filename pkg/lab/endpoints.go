package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/rebound-dev/rebound/pkg/endpoint"
)

// newSet returns the endpoints as one client sees them: the real code, over the modelled instances
// and a modelled DNS.
func (l link) newSet(p endpoint.Policy, target *url.URL, random func() float64) *endpoint.Set {
	return endpoint.New(target, endpoint.Options{
		Connections: endpoint.DefaultConnections(), Policy: p, Random: random, Resolver: dns{l.service},
		Connect: func(address string) http.RoundTripper { return wire{l, address} },
	})
}

// policy returns p with the addresses of the instances, for resolve: static.
func (u *service) policy(p endpoint.Policy) endpoint.Policy {
	if p.Resolve == endpoint.ResolveStatic {
		for _, in := range u.instances {
			p.Addresses = append(p.Addresses, in.address(0))
		}
	}
	return p
}

// atStart returns how many instances are not gone at the start, but at least 1.
func (u Upstream) atStart() int {
	gone := map[int]bool{}
	for _, p := range u.Phases {
		if p.Gone && p.At == 0 {
			gone[p.Instance] = true
		}
	}
	if gone[0] {
		return 1
	}
	return max(1, u.Instances-len(gone))
}

// wire connects a client with one address.
type wire struct {
	link
	to string
}

// RoundTrip makes one attempt at the instance of the address.
func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	in := w.instances[instanceAt(w.to)]
	return w.attempt(req, func(*rand.Rand) *instance { return in }, w.to)
}

// dns is a resolver that knows the instances.
type dns struct{ *service }

// LookupNetIP returns the addresses of the instances at this moment. It takes a nanosecond: a
// failed dial starts a lookup and repeats the attempt in the same nanosecond, and the attempt must
// always come first.
func (d dns) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	time.Sleep(time.Nanosecond)
	elapsed := time.Since(d.start)
	var all []netip.Addr
	for _, in := range d.instances {
		if !in.Gone(elapsed) {
			all = append(all, in.ip(elapsed))
		}
	}
	if len(all) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: "upstream", IsNotFound: true}
	}
	return all, nil
}

// ip returns the instance's address. Its last byte counts how often the instance was gone.
func (in *instance) ip(elapsed time.Duration) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(in.number >> 8), byte(in.number), byte(in.TimesGone(elapsed))}) //nolint:gosec // at most 1000 instances
}

// address returns the instance's address with its port.
func (in *instance) address(elapsed time.Duration) string {
	return net.JoinHostPort(in.ip(elapsed).String(), strconv.Itoa(port))
}

const port = 80

// instanceAt returns the number of the instance that has, or had, an address.
func instanceAt(address string) int {
	var high, low, times int
	if _, err := fmt.Sscanf(address, "10.%d.%d.%d:", &high, &low, &times); err != nil {
		panic("lab: an address that DNS did not return: " + address)
	}
	return high<<8 | low
}
