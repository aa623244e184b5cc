// Package rival runs the policies of other systems in the simulator, with those systems' own rules.
//
// It is a model. A few things are simpler than in the systems themselves:
//   - Connections are made at once or refused at once, so ConnectTimeout has no effect.
//   - Each connection carries one attempt, except for gRPC.
//   - All calls of the simulator have the method GET.
//   - A try timeout ends when the answer begins; only the call's timeout covers the body.
//   - A call without a timeout ends after a minute, because its caller gives up.
//   - A call that waits for a place waits at one endpoint, also where all have one queue (HAProxy).
//   - A client that knows the endpoints chooses one at random, or in turn.
//
// docs/faithful.md shows the models beside the systems that can run in a test.
package rival
