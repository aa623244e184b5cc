package serve

// The messages of the log lines.
const (
	lineListening = "listening"                              // a listener is open
	lineHangup    = "SIGHUP: the configuration file is read" // the program logs the result
	lineHungUp    = "SIGHUP: the program stops"              // there is no configuration file to read
	// a SIGHUP after the stop has begun, or a signal without a meaning
	lineIgnored = "signal ignored"
	// a listener has failed, and the program ends
	lineFailed   = "server failed"
	lineNotReady = "not ready any more" // the stop has begun: readiness fails
	// no new connections; calls in flight have the drain timeout
	lineDraining   = "draining"
	lineDrained    = "drained"                        // the last call has ended
	lineCut        = "calls cut at the drain timeout" // some calls had not ended
	lineClosed     = "closed"                         // an admin port is closed
	lineFlushed    = "telemetry flushed"              // the last spans have been sent
	lineNotFlushed = "telemetry was not flushed"      // the last spans may be lost
)

// The keys of their fields.
const (
	// the listener's name; also on net/http's own lines about a connection
	logListener     = "listener"
	logSignal       = "signal"        // the signal
	logAddr         = "addr"          // host and port
	logError        = "error"         // the error
	logAfter        = "after"         // the time since the stop began, on every line of the stop
	logDrainDelay   = "drain_delay"   // the time until the listeners close
	logDrainTimeout = "drain_timeout" // the limit for calls in flight
	logCalls        = "calls"         // the number of calls
)
