// Package endpoint keeps the connections to one upstream: which one a request is
// sent on, when a new one is made, and when an old one is given up. What goes over
// a connection is net/http's, by its ClientConn.
//
// Behind one name there are often several machines, which only a new connection
// can choose among: kept ones pin requests to where they lead. So a connection
// over which the upstream failed is not used again, what repeats or probes goes
// over a new one, and under traffic connections are replaced little by little,
// which lets machines that are new have their share.
package endpoint
