package serve

import (
	"net"
	"syscall"
)

const (
	// unsent is the most that the kernel buffers of a connection's unsent data. By default a slow
	// reader can leave megabytes there, and the next write waits until a third of that is gone. To
	// code that times its writes, a caller that reads 40 KB/s then looks like one that does not
	// read.
	unsent = 64 << 10

	tcpNotSentLowat = 25 // TCP_NOTSENT_LOWAT, which package syscall lacks
)

func limitUnsent(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, unsent) // optional
		})
	}
}
