// Package reboundgrpc puts the pipeline of package resilience around the calls of grpc-go, as
// client interceptors. It adds what gRPC needs: what each status means for the circuit, which calls
// may be made again, the server's pushback, and how the end of a stream counts.
//
//	interceptors, err := reboundgrpc.New(resilience.DefaultPolicy(),
//		reboundgrpc.WithIdempotent("/orders.Orders/Get"))
//	// ...
//	conn, err := grpc.NewClient(target, append(interceptors.DialOptions(), credentials)...)
//
// The rules are those of the gateway: see docs/grpc.md. The package depends on grpc-go and
// OpenTelemetry's API; no other package of Rebound needs it.
package reboundgrpc
