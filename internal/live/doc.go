// Package live records what a gateway is doing: its recent calls one by one, and its figures second
// by second for the last five minutes. Package page serves them.
//
// Recording a call takes less than a microsecond and no lock that all calls share:
// [Live.ObserveCall] adds it to one of many shards, and [Live.Run] gathers the shards five times a
// second. Memory is bounded at any rate. Calls and changes that do not fit are counted, and
// readers get the count.
package live
