// Package page serves the live page: an HTTP API over what [live.Live] records, a stream of
// server-sent events, and the files of a page that draws them.
package page
