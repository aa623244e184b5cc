package endpoint

import (
	"errors"
	"syscall"
)

// The numbers of Windows, which syscall does not have. Its own ENETUNREACH and so on are invented.
const (
	wsaEAFNOSUPPORT  = syscall.Errno(10047)
	wsaEADDRNOTAVAIL = syscall.Errno(10049)
	wsaENETUNREACH   = syscall.Errno(10051)
	wsaEHOSTUNREACH  = syscall.Errno(10065)
)

// withoutRoute reports whether err says that there is no route to an address.
func withoutRoute(err error) bool {
	return errors.Is(err, wsaENETUNREACH) || errors.Is(err, wsaEHOSTUNREACH) ||
		errors.Is(err, wsaEAFNOSUPPORT) || errors.Is(err, wsaEADDRNOTAVAIL)
}
