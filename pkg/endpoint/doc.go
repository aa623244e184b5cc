// Package endpoint keeps the connections to one upstream: which one a request is
// sent on, when a new one is made, and when an old one is given up. What goes over
// a connection is net/http's, by its ClientConn.
//
// Behind one name there are often several machines. Only a new connection can reach
// another one: kept connections pin requests to where they lead. So a connection
// over which the upstream failed is not used again. Retries and probes go over new
// ones. Under traffic connections are replaced one by one, so that new machines get
// their share.
package endpoint
