// Package serve runs a program's HTTP listeners. It opens all listeners or none, reports when the
// program is ready, and stops it without losing calls.
//
// A connection without TLS costs little while it waits. It gets to net/http's server with the first
// byte of a request. If it then waits for its next request for 3 s, it leaves the server until
// that comes. HTTP/2 connections stay.
//
// A stop takes these steps, and logs each one:
//
//  1. Readiness fails, so that load balancers send traffic elsewhere.
//  2. Load balancers notice late, so everything is served as before during the drain delay. But
//     responses ask the caller to close its connection, so that no caller holds one when the
//     listeners close.
//  3. The data listeners close one after the other. The calls in flight share the drain timeout.
//     When a listener's last call has ended, its Drained function is called, and the next listener
//     closes.
//  4. The contexts of the remaining calls are cancelled, then their connections are closed. An
//     event stream, for example, never ends by itself.
//  5. The admin listeners close. Until then they serve the probes, metrics and pages.
//  6. Flush sends the remaining telemetry.
package serve
