// Package interop_test runs gRPC's official interoperability tests, as grpc-go has them, through
// the client program.
package interop_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"

	"github.com/rebound-dev/rebound/internal/testkit/gobuild"
	"github.com/rebound-dev/rebound/internal/testkit/output"
	"github.com/rebound-dev/rebound/internal/testkit/pki"
)

// testCase is a test case of the official client. They report a failure with grpclog's Fatal.
type testCase func(context.Context, *grpc.ClientConn)

// service is a test case that needs a client of the test service only.
func service(do func(context.Context, testgrpc.TestServiceClient)) testCase {
	return func(ctx context.Context, conn *grpc.ClientConn) { do(ctx, testgrpc.NewTestServiceClient(conn)) }
}

// calls is a test case that takes options for its calls.
func calls(do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption), options ...grpc.CallOption) testCase {
	return service(func(ctx context.Context, c testgrpc.TestServiceClient) { do(ctx, c, options...) })
}

// cases has the test cases of grpc-go's client by their official names. Those with credentials of
// Google need Google's servers. pick_first_unary needs a server that tells its name, which
// grpc-go's does not. The last two stand for the cases with compressed messages, which grpc-go
// lacks.
func cases() map[string]testCase {
	return map[string]testCase{
		"empty_unary":                 calls(interop.DoEmptyUnaryCall),
		"large_unary":                 calls(interop.DoLargeUnaryCall),
		"client_streaming":            calls(interop.DoClientStreaming),
		"server_streaming":            calls(interop.DoServerStreaming),
		"ping_pong":                   calls(interop.DoPingPong),
		"empty_stream":                calls(interop.DoEmptyStream),
		"timeout_on_sleeping_server":  calls(interop.DoTimeoutOnSleepingServer),
		"cancel_after_begin":          calls(interop.DoCancelAfterBegin),
		"cancel_after_first_response": calls(interop.DoCancelAfterFirstResponse),
		"status_code_and_message":     calls(interop.DoStatusCodeAndMessage),
		"special_status_message":      calls(interop.DoSpecialStatusMessage),
		"custom_metadata":             calls(interop.DoCustomMetadata),
		"unimplemented_method":        interop.DoUnimplementedMethod,
		"unimplemented_service": func(ctx context.Context, conn *grpc.ClientConn) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
		},
		"orca_per_rpc": service(interop.DoORCAPerRPCTest),
		"orca_oob":     service(interop.DoORCAOOBTest),
		"rpc_soak": func(ctx context.Context, conn *grpc.ClientConn) {
			soak(ctx, func() (*grpc.ClientConn, func()) { return conn, func() {} })
		},
		"large_unary, compressed": calls(interop.DoLargeUnaryCall, grpc.UseCompressor(gzip.Name)),
		"ping_pong, compressed":   calls(interop.DoPingPong, grpc.UseCompressor(gzip.Name)),
	}
}

func soak(ctx context.Context, channel func() (*grpc.ClientConn, func())) {
	const size, answer = 271828, 314159 // those of the official client
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: size, ResponseSize: answer, PerIterationMaxAcceptableLatency: 20 * time.Second, OverallTimeout: time.Minute,
		ServerAddr: "the gateway", NumWorkers: 4, Iterations: 40, ChannelForTest: channel,
	})
}

// Every test case passes through the gateway, with and without TLS on either side.
func TestInterop(t *testing.T) {
	program := filepath.Join(gobuild.Programs(t, "../..", "./cmd/client"), "client")
	ca := pki.New(t, "interop")
	certificate, key := ca.Issue("127.0.0.1")
	files := pki.NewSecret(t)
	files.Write(map[string][]byte{"ca.crt": ca.PEM(), "tls.crt": certificate, "tls.key": key})
	trusting := credentials.NewTLS(&tls.Config{RootCAs: pki.Pool(ca), MinVersion: tls.VersionTLS12})
	for _, front := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS from callers %v, to the upstream %v", front, back), func(t *testing.T) {
				config := "routes: [{name: all, match: /, upstream: server}]\npolicies: {default: {timeout: 1m, attemptTimeout: 1m}}\n"
				var options []grpc.ServerOption
				if back {
					options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(ca.Pair("127.0.0.1"))))
					config += fmt.Sprintf("upstreams: {server: {url: \"https://%s\", tls: {caFile: %s}}}\n", serve(t, options...), files.Path("ca.crt"))
				} else {
					config += fmt.Sprintf("upstreams: {server: {url: \"h2c://%s\"}}\n", serve(t))
				}
				with := insecure.NewCredentials()
				if front {
					config += fmt.Sprintf("listener: {tls: {certFile: %s, keyFile: %s}}\n", files.Path("tls.crt"), files.Path("tls.key"))
					with = trusting
				}
				address := start(t, program, config)
				dial := func() *grpc.ClientConn {
					conn, err := grpc.NewClient("passthrough:"+address, grpc.WithTransportCredentials(with), grpc.WithDefaultServiceConfig(
						`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`)) // for the cases orca_*, as the official script has it
					if err != nil {
						t.Fatal(err)
					}
					return conn
				}
				conn := dial()
				t.Cleanup(func() { _ = conn.Close() })
				for name, run := range cases() {
					t.Run(name, func(t *testing.T) { check(t, conn, run) })
				}
				t.Run("channel_soak", func(t *testing.T) {
					check(t, nil, func(ctx context.Context, _ *grpc.ClientConn) {
						soak(ctx, func() (*grpc.ClientConn, func()) {
							own := dial()
							return own, func() { _ = own.Close() }
						})
					})
				})
			})
		}
	}
}

// check runs a test case. A failure ends it where it is.
func check(t *testing.T, conn *grpc.ClientConn, run testCase) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	grpclog.SetLoggerV2(failing{LoggerV2: grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard), t: t})
	run(ctx, conn)
}

// failing is a log whose fatal lines fail a test. Without it they would end the process.
type failing struct {
	grpclog.LoggerV2
	t *testing.T
}

func (f failing) Fatal(args ...any)                 { f.t.Helper(); f.t.Fatal(args...) }
func (f failing) Fatalln(args ...any)               { f.t.Helper(); f.t.Fatal(args...) }
func (f failing) Fatalf(format string, args ...any) { f.t.Helper(); f.t.Fatalf(format, args...) }

// serve starts the official test server on loopback and returns its address.
func serve(t *testing.T, options ...grpc.ServerOption) string {
	t.Helper()
	recorder := orca.NewServerMetricsRecorder()
	s := grpc.NewServer(append(options, orca.CallMetricsServerOption(nil))...)
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: recorder}))
	orcaservice.RegisterOpenRcaServiceServer(s, reports{recorder: recorder})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// start runs the client program and returns the address of its data port.
func start(t *testing.T, program, config string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "client.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, program, "--config", file, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-level", "warn")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var log output.Buffer
	cmd.Stderr = &log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if text := log.String(); strings.TrimSpace(text) != "" {
			t.Logf("the log of client:\n%s", text)
		}
	})
	url := regexp.MustCompile(`https?://localhost:(\d+)`)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if found := url.FindStringSubmatch(lines.Text()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			return "127.0.0.1:" + found[1]
		}
	}
	t.Fatalf("client printed no address:\n%s", log.String())
	return ""
}
