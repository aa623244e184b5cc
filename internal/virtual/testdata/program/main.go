// Command program is a plain binary on the virtual clock, built and run by TestProgram.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/rebound-dev/rebound/internal/virtual"
)

func main() {
	for range 3 {
		start := time.Now()
		virtual.Run(func() { time.Sleep(24 * time.Hour) })
		if time.Since(start) > time.Hour {
			fmt.Println("it took real time")
		}
	}
	func() {
		defer func() { fmt.Println("recovered:", recover() != nil) }()
		virtual.Run(func() { panic("boom") })
	}()
	flags := 0
	flag.VisitAll(func(*flag.Flag) { flags++ })
	fmt.Println("flags:", flags, "arguments:", os.Args[1:])
	os.Exit(7)
}
