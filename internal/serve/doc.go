// Package serve runs a program's HTTP listeners from the first to the last: it listens on all addresses or
// none, says when the program is ready, and stops in an order in which no call is lost.
//
// The order of a stop, each step of which is logged:
//
//  1. Readiness fails, so that load balancers look elsewhere.
//  2. For the drain delay everything is served as before, because they notice late; but answers ask for
//     their connection to be closed, so that by the end of it nobody holds one that is about to go.
//  3. The data listeners close one after the other, and the calls in flight have the drain timeout to end.
//     A listener that has none left says so by its Drained before the next one closes.
//  4. Calls that are left (an event stream ends no earlier by itself) are cut: their contexts end, then
//     their connections.
//  5. The admin listeners, which showed all this, close.
//  6. Flush sends what telemetry is left.
package serve
