package serve

// The messages of the log's lines.
const (
	lineListening  = "listening"                              // an address is served
	lineHangup     = "SIGHUP: the configuration file is read" // what becomes of it is told by the program
	lineHungUp     = "SIGHUP: the program stops"              // there is no configuration file to read
	lineIgnored    = "signal ignored"                         // a SIGHUP after the stop has begun, or a signal that means nothing
	lineFailed     = "server failed"                          // an address cannot be served any more, and the program ends
	lineNotReady   = "not ready any more"                     // the stop has begun: readiness fails
	lineDraining   = "draining"                               // no new connections, and the calls in flight have their limit
	lineDrained    = "drained"                                // the last call has ended
	lineCut        = "calls cut at the drain timeout"         // some had not ended
	lineClosed     = "closed"                                 // an admin port is closed
	lineFlushed    = "telemetry flushed"                      // the last spans have been sent
	lineNotFlushed = "telemetry was not flushed"              // the last spans may be lost
)

// The keys of their fields.
const (
	logListener     = "listener"      // its name; also on net/http's own lines about a connection
	logSignal       = "signal"        // which one
	logAddr         = "addr"          // host and port
	logError        = "error"         // what went wrong
	logAfter        = "after"         // on every line of a stop: the time since it began
	logDrainDelay   = "drain_delay"   // the time until the listeners are closed
	logDrainTimeout = "drain_timeout" // the time that calls in flight have
	logCalls        = "calls"         // how many were cut
)
