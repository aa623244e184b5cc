//go:build unix

package endpoint

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
)

// Only a missing route is one. A busy machine used to lose all its IPv6 endpoints when the socket
// that asks for a route could not be made.
func TestMissingRoute(t *testing.T) {
	for number, want := range map[syscall.Errno]bool{
		syscall.ENETUNREACH: true, syscall.EHOSTUNREACH: true, syscall.EAFNOSUPPORT: true, syscall.EADDRNOTAVAIL: true,
		syscall.EMFILE: false, syscall.ENFILE: false, syscall.ENOBUFS: false, syscall.ENOMEM: false, syscall.EPERM: false, syscall.EACCES: false,
	} {
		t.Run(number.Error(), func(t *testing.T) {
			err := &net.OpError{Op: "dial", Net: "udp", Err: os.NewSyscallError("socket", number)}
			if got := withoutRoute(err); got != want {
				t.Errorf("%v: a missing route: %v, want %v", err, got, want)
			}
		})
	}
	if withoutRoute(errors.New("x")) {
		t.Error("an unknown error is taken for a missing route")
	}
}

// The real answer of the system, while it has no file descriptor left.
func TestRouteWithoutAFileDescriptor(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	if !routed(loopback) {
		t.Error("there is no route to loopback")
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Skip(err)
	}
	none := before
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Skip(err)
	}
	still := routed(loopback)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if !still {
		t.Error("there is no route to loopback without a file descriptor")
	}
}
