//go:build unix

package connpool

import (
	"errors"
	"io"
	"syscall"
)

// canLook reports whether look works.
const canLook = true

// looker reads what has arrived on a connection, and does not wait for more. Only one goroutine may
// use it at a time.
type looker struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // l.once, without an allocation
	p    []byte
	n    int
	err  error
}

var errNothing = errors.New("nothing has arrived")

func (l *looker) use(raw syscall.RawConn) { l.raw, l.read = raw, l.once }

// look reads into p. It returns errNothing if nothing has arrived.
func (l *looker) look(p []byte) (int, error) {
	l.p = p
	err := l.raw.Read(l.read)
	l.p = nil
	if err != nil { // the connection is closed: l.n is that of an earlier look
		return 0, err
	}
	return l.n, l.err
}

func (l *looker) once(fd uintptr) (done bool) {
	l.n, l.err = syscall.Read(int(fd), l.p)
	switch {
	case errors.Is(l.err, syscall.EAGAIN), errors.Is(l.err, syscall.EINTR):
		l.err = errNothing
	case l.err == nil && l.n == 0:
		l.err = io.EOF
	}
	l.n = max(l.n, 0)
	return true // do not wait
}
