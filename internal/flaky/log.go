package flaky

// The messages of the log's lines.
const (
	lineArrival = "arrival"                            // a call has come in, and its fate is known
	lineFaults  = "faults changed"                     // other faults are in force
	lineRead    = "faults read from the file"          // they are in force, and count from here
	lineRefused = "faults refused, the old ones go on" // what the file says now is wrong
)

// The keys of their fields.
const (
	logPath    = "path"    // what is asked for
	logArrival = "arrival" // which one it is, from 1, since the start or the last PUT of faults
	logFault   = "fault"   // what strikes it: a [faults.Fault]
	logMethod  = "method"  // PUT or PATCH
	logError   = "error"   // what went wrong
)
