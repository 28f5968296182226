package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// A tally is what was measured of the steps of one name.
type tally struct {
	Count  int64     `json:"count"`
	Bytes  int64     `json:"bytes"`
	P50    float64   `json:"p50_us"`
	P90    float64   `json:"p90_us"`
	P99    float64   `json:"p99_us"`
	Mean   float64   `json:"mean_us"`
	Micros []float64 `json:"-"`
}

// A report is what a run prints.
type report struct {
	Elapsed  float64           `json:"elapsed_s"`
	CPU      float64           `json:"cpu_s"`
	At       []int             `json:"at"`
	Names    map[string]*tally `json:"names"`
	Failures map[string]int    `json:"failures"`
	Posted   *posted           `json:"posted,omitempty"`
	lock     sync.Mutex
}

func newReport(callers int) *report {
	return &report{At: make([]int, callers), Names: map[string]*tally{}, Failures: map[string]int{}}
}

func (r *report) fail(what string) {
	r.lock.Lock()
	r.Failures[what]++
	r.lock.Unlock()
}

func (r *report) tally(name string) *tally {
	r.lock.Lock()
	defer r.lock.Unlock()
	found := r.Names[name]
	if found == nil {
		found = &tally{}
		r.Names[name] = found
	}
	return found
}

func (r *report) finish(start time.Time) {
	r.Elapsed = time.Since(start).Seconds()
	r.CPU = ownCPU()
	for _, each := range r.Names {
		each.sum()
	}
}

// sum works out what is told of the latencies.
func (t *tally) sum() {
	sort.Float64s(t.Micros)
	if n := len(t.Micros); n > 0 {
		sum := 0.0
		for _, micros := range t.Micros {
			sum += micros
		}
		t.Mean = sum / float64(n)
		t.P50, t.P90, t.P99 = t.Micros[n/2], t.Micros[n*9/10], t.Micros[n*99/100]
	}
}

// A progress is what callers and posts know of each other.
type progress struct {
	answered atomic.Int64
	posted   atomic.Bool
}

// A caller goes through its steps, one at a time, over and over.
type caller struct {
	number  int
	steps   []step
	at      int
	left    int
	conn    *conn
	stream  stream
	report  *report
	until   time.Time
	ids     []byte
	count   uint64
	message []byte
	sent    time.Time
	tallies []*tally
	active  *int
	all     *progress
}

func (c *caller) next() {
	now := time.Now()
	if c.left == 0 || (!c.until.IsZero() && now.After(c.until)) || c.all.posted.Load() {
		c.report.At[c.number] = c.at
		*c.active--
		return
	}
	c.left--
	step := &c.steps[c.at%len(c.steps)]
	c.message = append(c.message[:0], step.Body...)
	if step.RequestID {
		c.message = appendRequestID(c.message, c.ids, uint32(c.number), &c.count)
	}
	c.sent = now
	c.stream.status, c.stream.text = "", ""
	c.conn.call(step.Path, c.message, &c.stream)
}

func (c *caller) received(message []byte) {
	c.tallies[c.at%len(c.steps)].Bytes += int64(len(message))
}

func (c *caller) ended(status, text string) {
	which := c.at % len(c.steps)
	if status != "0" {
		c.report.fail(fmt.Sprintf("%s: status %s: %s", c.steps[which].Name, status, text))
	} else {
		found := c.tallies[which]
		found.Count++
		found.Micros = append(found.Micros, float64(time.Since(c.sent).Nanoseconds())/1000)
		c.all.answered.Add(1)
	}
	c.at++
	c.next()
}

// appendRequestID adds field 2 of every mutating request: 32 hexadecimal digits, never the same.
func appendRequestID(message, run []byte, caller uint32, count *uint64) []byte {
	var id [16]byte
	copy(id[:8], run)
	binary.BigEndian.PutUint32(id[8:], caller)
	binary.BigEndian.PutUint32(id[12:], uint32(*count))
	*count++
	message = append(message, 0x12, 32)
	start := len(message)
	message = append(message, make([]byte, 32)...)
	hex.Encode(message[start:], id[:])
	return message
}

// unary runs the callers of a plan, each with one call in flight, and reports. Where there is
// something to post as well, they go on until all of it is answered.
func unary(plan *plan) (*report, error) {
	all := newReport(len(plan.Callers))
	parts := make([]*report, plan.Connections)
	conns := make([]*conn, plan.Connections)
	for i := range conns {
		opened, err := dial(plan.Target, plan.Metadata)
		if err != nil {
			return nil, err
		}
		defer opened.nc.Close()
		conns[i], parts[i] = opened, newReport(len(plan.Callers))
	}
	var mail *mailer
	if plan.Posts != nil {
		opened, err := openMailer(plan.Posts, all)
		if err != nil {
			return nil, err
		}
		defer opened.close()
		mail = opened
	}
	start := time.Now()
	var until time.Time
	if plan.Duration > 0 {
		until = start.Add(seconds(plan.Duration))
	}
	limit := start.Add(seconds(plan.Duration + plan.Timeout))
	ids := runID()
	shared := &progress{}
	var group sync.WaitGroup
	if mail != nil {
		group.Add(1)
		go func() {
			defer group.Done()
			all.Posted = mail.run(start, limit, shared)
		}()
	}
	for i, each := range conns {
		group.Add(1)
		go func(part *report, on *conn, at int) {
			defer group.Done()
			_ = on.nc.SetDeadline(limit)
			active := 0
			for number := at; number < len(plan.Callers); number += plan.Connections {
				given := plan.Callers[number]
				c := &caller{
					number: number, steps: given.Steps, at: given.At, left: given.Calls, conn: on,
					report: part, until: until, ids: ids, active: &active, all: shared,
				}
				if c.left == 0 {
					c.left = -1
				}
				for _, each := range c.steps {
					c.tallies = append(c.tallies, part.tally(each.Name))
				}
				c.stream.onMessage, c.stream.onEnd = c.received, c.ended
				active++
				c.next()
			}
			failed := func() bool { return active == 0 || len(part.Failures) > 20 }
			if err := on.run(failed); err != nil {
				part.fail("connection: " + err.Error())
			}
		}(parts[i], each, i)
	}
	group.Wait()
	for i, part := range parts {
		for number := i; number < len(plan.Callers); number += plan.Connections {
			all.At[number] = part.At[number]
		}
		for name, each := range part.Names {
			sum := all.tally(name)
			sum.Count += each.Count
			sum.Bytes += each.Bytes
			sum.Micros = append(sum.Micros, each.Micros...)
		}
		for what, count := range part.Failures {
			all.Failures[what] += count
		}
	}
	all.finish(start)
	return all, nil
}
