// Package live shows what a gateway is doing: its recent calls one by one, its
// figures second by second for the last five minutes, and both as a stream of
// events, with a page that draws them.
//
// A call costs less than a microsecond here and takes no lock that all calls
// share: [Live.Record] adds it to one of many shards, and [Live.Run] gathers
// the shards five times a second. Memory is bounded whatever the rate: what
// does not fit is counted, and whoever reads is told how much it was.
package live
