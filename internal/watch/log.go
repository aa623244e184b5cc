package watch

// The messages of the log's lines.
const (
	linePolling = "changes of the file are looked for every few seconds only" // the kernel cannot tell of them
)

// The keys of their fields.
const (
	logFile  = "file"  // the file that is watched
	logError = "error" // what went wrong
)
