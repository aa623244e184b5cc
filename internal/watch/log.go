package watch

// The messages of the log lines.
const (
	// the kernel cannot report changes
	linePolling = "changes of the file are looked for every few seconds only"
)

// The keys of their fields.
const (
	logFile  = "file"  // the watched file
	logError = "error" // the error
)
