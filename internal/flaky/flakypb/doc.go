// Package flakypb is the gRPC service of flaky-server. `go generate` makes it from flaky.proto and
// needs no protoc.
package flakypb

//go:generate go -C ../../../test/protogen run . ../../internal/flaky/flakypb flaky.proto
