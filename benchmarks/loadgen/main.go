// Command loadgen puts load on a gRPC server and says what came back. It is small on purpose: one
// goroutine for each connection, one processor, requests prepared as bytes, so that on a machine with
// two cores the server and not its generator is the limit. Every call's grpc-status is checked.
//
// The first line of its input is a plan as JSON; what it prints is JSON, too.
package main

import (
	"bufio"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// A step is one request; with RequestID, a fresh id is put into its field 2.
type step struct {
	Name      string `json:"name"`
	Path      string `json:"path"`
	Body      []byte `json:"body"`
	RequestID bool   `json:"request_id"`
}

// A plan is what to do: the steps of each caller, or the streams to open and what to publish.
type plan struct {
	Mode        string      `json:"mode"`
	Target      string      `json:"target"`
	Metadata    [][2]string `json:"metadata"`
	Connections int         `json:"connections"`
	Duration    float64     `json:"duration_s"`
	Timeout     float64     `json:"timeout_s"`
	Callers     []struct {
		Steps []step `json:"steps"`
		At    int    `json:"at"`
		Calls int    `json:"calls"`
	} `json:"callers"`

	Streams   int    `json:"streams"`
	Path      string `json:"path"`
	Body      []byte `json:"body"`
	Count     string `json:"count"`
	Publishes int    `json:"publishes"`
	Window    int    `json:"window"`

	Posts *posts `json:"posts"`
}

func main() {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(1000)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
}

func run() error {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	plan := &plan{}
	if err := json.Unmarshal(line, plan); err != nil {
		return err
	}
	switch plan.Mode {
	case "unary":
		report, err := unary(plan)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(report)
	case "watch":
		return watch(plan, in)
	}
	return fmt.Errorf("unknown mode %q", plan.Mode)
}

func seconds(value float64) time.Duration {
	return time.Duration(value * float64(time.Second))
}

func runID() []byte {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		panic(err)
	}
	return id
}

// ownCPU tells how much processor time this process has used.
func ownCPU() float64 {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}
