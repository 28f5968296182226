package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Posts are signed messages for a webhook, and how they arrive: so many a second whether or not
// those before are answered, or with no rate all at once, each connection taking the next when it
// has its answer.
type posts struct {
	Target      string  `json:"target"`
	Path        string  `json:"path"`
	Connections int     `json:"connections"`
	Rate        float64 `json:"rate_per_s"`
	After       float64 `json:"after_s"`
	Messages    []struct {
		Body      []byte `json:"body"`
		Signature string `json:"signature"`
	} `json:"messages"`
}

// A posted is what came of them: latencies from the moment each was due, waiting for a connection
// included; how long it took from the first being due to the last answer, and how many calls of the
// callers were answered meanwhile.
type posted struct {
	tally
	Elapsed float64        `json:"elapsed_s"`
	Calls   int64          `json:"calls"`
	Answers map[string]int `json:"answers"`
	lock    sync.Mutex
}

// A letter is a message and when it is due.
type letter struct {
	number int
	due    time.Time
}

// A mailer has its connections open before anything is measured.
type mailer struct {
	posts  *posts
	report *report
	heads  []string
	conns  []net.Conn
}

func openMailer(given *posts, report *report) (*mailer, error) {
	m := &mailer{posts: given, report: report}
	for _, each := range given.Messages {
		m.heads = append(m.heads, fmt.Sprintf(
			"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"+
				"Stripe-Signature: %s\r\nContent-Length: %d\r\n\r\n",
			given.Path, given.Target, each.Signature, len(each.Body),
		))
	}
	for i := 0; i < given.Connections; i++ {
		opened, err := net.DialTimeout("tcp", given.Target, 10*time.Second)
		if err != nil {
			m.close()
			return nil, err
		}
		m.conns = append(m.conns, opened)
	}
	return m, nil
}

func (m *mailer) close() {
	for _, each := range m.conns {
		each.Close()
	}
}

// run posts everything; `all.posted` is set when the last answer is there, or a failure.
func (m *mailer) run(start, limit time.Time, all *progress) *posted {
	defer all.posted.Store(true)
	result := &posted{Answers: map[string]int{}}
	letters := make(chan letter, len(m.posts.Messages))
	first := start.Add(seconds(m.posts.After))
	time.Sleep(time.Until(first))
	before := all.answered.Load()
	var group sync.WaitGroup
	for _, each := range m.conns {
		group.Add(1)
		go func(on net.Conn) {
			defer group.Done()
			_ = on.SetDeadline(limit)
			if err := m.deliver(on, letters, result); err != nil {
				m.report.fail("webhook: " + err.Error())
			}
		}(each)
	}
	for number := range m.posts.Messages {
		due := first
		if m.posts.Rate > 0 {
			due = first.Add(seconds(float64(number) / m.posts.Rate))
			time.Sleep(time.Until(due))
		}
		letters <- letter{number, due}
	}
	close(letters)
	group.Wait()
	result.Elapsed = time.Since(first).Seconds()
	result.Calls = all.answered.Load() - before
	result.sum()
	if missing := int64(len(m.posts.Messages)) - result.Count; missing > 0 {
		m.report.fail(fmt.Sprintf("webhook: %d were not answered with 200", missing))
	}
	return result
}

func (m *mailer) deliver(on net.Conn, letters <-chan letter, result *posted) error {
	in := bufio.NewReader(on)
	var request []byte
	for next := range letters {
		request = append(request[:0], m.heads[next.number]...)
		request = append(request, m.posts.Messages[next.number].Body...)
		if _, err := on.Write(request); err != nil {
			return err
		}
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		taken := time.Since(next.due)
		text := strings.TrimSpace(string(body))
		if answer.StatusCode != http.StatusOK || answer.Close {
			return fmt.Errorf("answered %d %s", answer.StatusCode, text)
		}
		result.lock.Lock()
		result.Answers[text]++
		result.Count++
		result.Bytes += int64(len(body))
		result.Micros = append(result.Micros, float64(taken.Nanoseconds())/1000)
		result.lock.Unlock()
	}
	return nil
}
