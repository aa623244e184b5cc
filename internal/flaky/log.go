package flaky

// The messages of the log lines.
const (
	// a call has arrived, and its fault is decided
	lineArrival = "arrival"
	lineFaults  = "faults changed" // other faults are in force
	// the file's faults are in force, and count from now
	lineRead    = "faults read from the file"
	lineRefused = "faults refused, the old ones go on" // the changed file is wrong
)

// The keys of their fields.
const (
	logPath = "path" // the path of the request
	// the number of the arrival, from 1, since the start or the last PUT of faults
	logArrival = "arrival"
	logFault   = "fault"  // the [faults.Fault]
	logMethod  = "method" // PUT or PATCH
	logError   = "error"  // the error
)
