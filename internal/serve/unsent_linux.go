package serve

import (
	"net"
	"syscall"
)

const (
	// unsent is how much of what is written to a connection the kernel takes at most before
	// it can be sent. Without it a caller who reads slowly leaves megabytes there, and the
	// next write waits until a third of that is gone: to whoever watches how long a write
	// takes, a caller of 40 KB/s looks like one who does not read.
	unsent = 64 << 10

	tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall does not name
)

func limitUnsent(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsent) // it works without
		})
	}
}
