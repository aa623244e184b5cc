// Package connpool manages the connections to one upstream: on which connection a request is sent,
// when a new one is made, and when an old one is closed. net/http's ClientConn does the rest, but
// not for HTTP/1 requests without a body over plain TCP: see direct.
//
// One host name often stands for several machines, and only a new connection can reach another one
// of them. So a connection on which the upstream failed is not used again, and retries and probes
// use new ones. Under traffic, connections are replaced one by one, so that new machines get their
// share.
package connpool
