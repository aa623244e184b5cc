package serve

import (
	"fmt"
	"net"
)

// URL returns a URL at which a browser on this machine can open addr.
func URL(addr net.Addr) string { return "http://" + host(addr) }

// SecureURL returns the same for an addr that is served with TLS.
func SecureURL(addr net.Addr) string { return "https://" + host(addr) }

func host(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && (tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()) {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return addr.String()
}
