package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/rebound-dev/rebound/internal/serve"
)

// TestSignals runs its own binary as a child process that prints a line at the first signal and
// then hangs.
func TestSignals(t *testing.T) {
	if os.Getenv("SERVE_TEST_HANG") != "" {
		ctx, stop := serve.Signals(t.Context())
		defer stop()
		fmt.Println("waiting")
		<-ctx.Done()
		fmt.Println("stopping")
		select {}
	}
	for name, signal := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestSignals$")
			child.Env = append(os.Environ(), "SERVE_TEST_HANG=1")
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for _, want := range []string{"waiting", "stopping"} {
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("the process printed %q, want %q", lines.Text(), want)
				}
				if err := child.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
			}
			err = child.Wait()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				t.Fatalf("the process ended with %v, want an exit error", err)
			}
			if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != signal {
				t.Errorf("the process ended with %v, want it killed by the second %s", err, name)
			}
		})
	}
}
