package callgraph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/rebound-dev/rebound/internal/backend"
	"github.com/rebound-dev/rebound/pkg/endpoint"
	"github.com/rebound-dev/rebound/pkg/lab"
)

// wire connects a client with the instances of a service: with one, or with any.
type wire struct {
	to       *service
	instance int
	// address is that of the instance, if the client knows it.
	address netip.Addr
}

// travelTime is the most that a request travels.
const travelTime = backend.Grid

// RoundTrip makes one attempt.
func (w wire) RoundTrip(req *http.Request) (*http.Response, error) {
	s := w.to.sim
	info, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errors.New("callgraph: the request belongs to no call")
	}
	id := mix(info.id, info.tries.Add(1))
	rng := rand.New(rand.NewPCG(s.Seed, id))
	began := time.Now()
	w.to.figures.attempt(began, info)
	info.edge.attempt(info.slot)
	s.travel(rng)
	number := w.instance
	if number == lab.AnyInstance {
		known := w.to.known()
		if len(known) == 0 {
			return nil, backend.Refused()
		}
		number = known[rng.IntN(len(known))]
	}
	in := w.to.instances[number]
	in.arrive(id)
	elapsed := time.Since(s.start)
	if in.Refuses(elapsed) || w.address.IsValid() && !in.at(w.address, elapsed) {
		return nil, backend.Refused()
	}
	resp, err := in.serve(req, info, id, rng)
	if req.Context().Err() != nil {
		// The lease of a probe ends in the same nanosecond as its attempt. The lease must end
		// first.
		time.Sleep(time.Nanosecond)
	}
	return resp, err
}

// travel lets a request travel until an odd nanosecond, half of travelTime on average.
func (s *sim) travel(rng *rand.Rand) {
	wait := time.Duration(rng.Int64N(travelTime/2)) * 2
	if time.Since(s.start)%2 == 0 {
		wait++
	}
	time.Sleep(wait)
}

// arrive returns in an even nanosecond, in which no other request arrives at the instance.
func (in *instance) arrive(id uint64) {
	now := time.Now()
	in.mu.Lock()
	if !in.arriving.Equal(now) {
		in.arriving, in.ids = now, in.ids[:0]
	}
	in.ids = append(in.ids, id)
	in.mu.Unlock()
	time.Sleep(time.Nanosecond)
	rank := 0
	in.mu.Lock()
	if in.arriving.Equal(now) {
		for _, other := range in.ids {
			if other < id {
				rank++
			}
		}
	}
	in.mu.Unlock()
	if rank > 0 {
		time.Sleep(time.Duration(2*rank) * time.Nanosecond)
	}
}

// known returns the numbers of the instances that are in DNS.
func (s *service) known() []int {
	ready := *s.ready.Load()
	if s.Endpoints.Resolve != endpoint.ResolveDNS {
		return ready // none can be gone
	}
	elapsed := time.Since(s.sim.start)
	var all []int
	for _, i := range ready {
		if !s.instances[i].Gone(elapsed) {
			all = append(all, i)
		}
	}
	return all
}

// at reports whether the instance takes connections at an address.
func (in *instance) at(address netip.Addr, elapsed time.Duration) bool {
	return in.up.Load() && in.ip(elapsed) == address
}

// ip returns the instance's address. Its last byte counts how often the instance was gone.
func (in *instance) ip(elapsed time.Duration) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(in.number >> 8), byte(in.number), byte(in.TimesGone(elapsed))}) //nolint:gosec // at most 1000 instances
}

// newSet returns the instances as one client sees them: the real code, over the modelled instances
// and a modelled DNS.
func (s *service) newSet(random func() float64) *endpoint.Set {
	p := s.Endpoints
	if p.Resolve == endpoint.ResolveStatic {
		for _, in := range s.instances[:s.Instances] {
			p.Addresses = append(p.Addresses, netip.AddrPortFrom(in.ip(0), port).String())
		}
	}
	return endpoint.New(&url.URL{Scheme: "http", Host: s.Name}, endpoint.Options{
		Connections: endpoint.DefaultConnections(), Policy: p, Random: random, Resolver: dns{s}, Connect: s.connect,
	})
}

const port = 80

// connect returns what sends requests to an address that DNS returned.
func (s *service) connect(address string) http.RoundTripper {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		panic(fmt.Sprintf("callgraph: an address that DNS did not return: %v", err))
	}
	four := at.Addr().As4()
	return wire{s, int(four[1])<<8 | int(four[2]), at.Addr()}
}

// dns is a resolver that knows the instances of a service.
type dns struct{ *service }

// LookupNetIP returns the addresses of the instances that get calls. It takes a nanosecond: a
// failed dial starts a lookup and repeats the attempt in the same nanosecond, and the attempt must
// always come first.
func (d dns) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	time.Sleep(time.Nanosecond)
	elapsed := time.Since(d.sim.start)
	var all []netip.Addr
	for _, i := range d.known() {
		all = append(all, d.instances[i].ip(elapsed))
	}
	if len(all) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: d.Name, IsNotFound: true}
	}
	return all, nil
}
