package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// A crowd is many streams of one request, opened at once.
type crowd struct {
	plan      *plan
	report    *report
	connected atomic.Int64
	delivered atomic.Int64
	target    atomic.Int64
	reached   chan struct{}
	ended     atomic.Int64
}

// watch opens the streams, says so, waits for a line, publishes, says what came, waits for a line.
func watch(plan *plan, lines *bufio.Reader) error {
	c := &crowd{plan: plan, report: newReport(0), reached: make(chan struct{}, 1)}
	limit := time.Now().Add(seconds(plan.Timeout))
	answer := json.NewEncoder(os.Stdout)
	publisher, err := dial(plan.Target, plan.Metadata)
	if err != nil {
		return err
	}
	defer publisher.nc.Close()
	_ = publisher.nc.SetDeadline(limit)
	start := time.Now()
	for i := 0; i < plan.Connections; i++ {
		on, err := dial(plan.Target, plan.Metadata)
		if err != nil {
			return err
		}
		defer on.nc.Close()
		_ = on.nc.SetDeadline(limit)
		for number := i; number < plan.Streams; number += plan.Connections {
			c.open(on)
		}
		go func() {
			if err := on.run(func() bool { return false }); err != nil {
				c.report.fail("connection: " + err.Error())
			}
		}()
	}
	for c.connected.Load()+c.ended.Load() < int64(plan.Streams) && time.Now().Before(limit) {
		time.Sleep(2 * time.Millisecond)
	}
	connected := map[string]any{
		"connected": c.connected.Load(), "elapsed_s": time.Since(start).Seconds(),
		"failures": c.failures(),
	}
	if err := answer.Encode(connected); err != nil {
		return err
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return nil
	}
	published, elapsed := c.publish(publisher, limit)
	result := map[string]any{
		"published": published, "delivered": c.delivered.Load(), "elapsed_s": elapsed,
		"cpu_s": ownCPU(), "failures": c.failures(),
	}
	if err := answer.Encode(result); err != nil {
		return err
	}
	_, _ = lines.ReadString('\n')
	return nil
}

func (c *crowd) failures() map[string]int {
	c.report.lock.Lock()
	defer c.report.lock.Unlock()
	kept := map[string]int{}
	for what, count := range c.report.Failures {
		kept[what] = count
	}
	return kept
}

func (c *crowd) open(on *conn) {
	last, first := int64(0), true
	s := &stream{}
	s.onEnd = func(status, text string) {
		c.ended.Add(1)
		c.report.fail(fmt.Sprintf("a watch ended: status %s: %s", status, text))
	}
	s.onMessage = func(message []byte) {
		events := int64(1)
		if c.plan.Count == "session" {
			version, found, snapshot := parseWatch(message)
			if !first && !snapshot && found != version-last {
				c.report.fail(fmt.Sprintf("%d events from version %d to %d", found, last, version))
			}
			last, events = version, found
		}
		if first {
			first = false
			c.connected.Add(1)
			return
		}
		if events == 0 {
			return
		}
		if now := c.delivered.Add(events); now == c.target.Load() {
			c.reached <- struct{}{}
		}
	}
	on.call(c.plan.Path, c.plan.Body, s)
}

// publish sends the calls in groups; a group begins when all of the one before was delivered.
func (c *crowd) publish(on *conn, limit time.Time) (int, float64) {
	ids, count, published := runID(), uint64(0), 0
	start := time.Now()
	for published < c.plan.Publishes {
		group := min(c.plan.Window, c.plan.Publishes-published)
		c.target.Store(int64(published+group) * int64(c.plan.Streams))
		left := group
		for i := 0; i < group; i++ {
			step := c.plan.Callers[0].Steps[published%len(c.plan.Callers[0].Steps)]
			published++
			message := append([]byte(nil), step.Body...)
			if step.RequestID {
				message = appendRequestID(message, ids, 0, &count)
			}
			on.call(step.Path, message, &stream{
				onMessage: func([]byte) {},
				onEnd: func(status, text string) {
					left--
					if status != "0" {
						c.report.fail(fmt.Sprintf("publishing: status %s: %s", status, text))
					}
				},
			})
		}
		if err := on.run(func() bool { return left == 0 }); err != nil {
			c.report.fail("publishing: " + err.Error())
			break
		}
		if len(c.failures()) > 0 {
			break
		}
		select {
		case <-c.reached:
		case <-time.After(time.Until(limit)):
			c.report.fail("not everything was delivered in time")
			return published, time.Since(start).Seconds()
		}
	}
	return published, time.Since(start).Seconds()
}

// parseWatch reads version, number of events and kind of a WatchSessionResponse.
func parseWatch(message []byte) (version, events int64, snapshot bool) {
	fields(message, func(number int, value uint64, bytes []byte) {
		switch number {
		case 1:
			version = int64(value)
		case 3:
			snapshot = true
		case 4:
			fields(bytes, func(int, uint64, []byte) { events++ })
		}
	})
	return version, events, snapshot
}

// fields walks over the fields of a protobuf message of varints and length-delimited values.
func fields(message []byte, visit func(number int, value uint64, bytes []byte)) {
	for len(message) > 0 {
		tag, rest := varint(message)
		value, rest := varint(rest)
		message = rest
		if tag&7 == 2 {
			visit(int(tag>>3), 0, message[:value])
			message = message[value:]
		} else {
			visit(int(tag>>3), value, nil)
		}
	}
}

func varint(from []byte) (uint64, []byte) {
	value, shift := uint64(0), 0
	for i, each := range from {
		value |= uint64(each&0x7f) << shift
		if each < 0x80 {
			return value, from[i+1:]
		}
		shift += 7
	}
	return value, nil
}
