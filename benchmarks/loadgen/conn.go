package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Frame types and flags of HTTP/2 (RFC 9113) that a gRPC client meets.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	streamWindow     = 1 << 26
	connectionWindow = 1 << 30
)

// A stream is one call. Its callbacks run on the goroutine of its connection.
type stream struct {
	id        uint32
	onMessage func(message []byte)
	onEnd     func(status, text string)
	partial   []byte
	status    string
	text      string
}

// A conn is one HTTP/2 connection, driven by one goroutine: what it wants to send is collected while
// there is something to read and leaves in one write.
type conn struct {
	nc         net.Conn
	in         *bufio.Reader
	out        []byte
	encoder    *hpack.Encoder
	encoded    bytes.Buffer
	decoder    *hpack.Decoder
	streams    map[uint32]*stream
	current    *stream
	currentEnd bool
	nextID     uint32
	room       int64
	waiting    []func()
	unread     uint32
	target     string
	metadata   [][2]string
	scratch    []byte
}

func dial(target string, metadata [][2]string) (*conn, error) {
	nc, err := net.DialTimeout("tcp", target, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &conn{
		nc: nc, in: bufio.NewReaderSize(nc, 1<<16), streams: map[uint32]*stream{}, nextID: 1,
		room: 65535, target: target, metadata: metadata, scratch: make([]byte, 1<<15),
	}
	c.encoder = hpack.NewEncoder(&c.encoded)
	c.decoder = hpack.NewDecoder(4096, func(field hpack.HeaderField) {
		if c.current == nil {
			return
		}
		switch field.Name {
		case "grpc-status":
			c.current.status = field.Value
		case "grpc-message":
			c.current.text = field.Value
		}
	})
	c.out = append(c.out, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...)
	settings := make([]byte, 0, 12)
	settings = binary.BigEndian.AppendUint16(settings, 2) // no pushes
	settings = binary.BigEndian.AppendUint32(settings, 0)
	settings = binary.BigEndian.AppendUint16(settings, 4) // the window of a stream
	settings = binary.BigEndian.AppendUint32(settings, streamWindow)
	c.frame(frameSettings, 0, 0, settings)
	c.frame(frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, connectionWindow))
	return c, c.flush()
}

func (c *conn) frame(kind, flags byte, id uint32, payload []byte) {
	c.out = append(c.out, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	c.out = binary.BigEndian.AppendUint32(c.out, id)
	c.out = append(c.out, payload...)
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// call opens a stream with one request message and half-closes it.
func (c *conn) call(path string, message []byte, s *stream) {
	if c.room < int64(len(message)+5) {
		kept := append([]byte(nil), message...)
		c.waiting = append(c.waiting, func() { c.call(path, kept, s) })
		return
	}
	c.room -= int64(len(message) + 5)
	s.id = c.nextID
	c.nextID += 2
	c.streams[s.id] = s
	c.encoded.Reset()
	field := func(name, value string) {
		_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
	}
	field(":method", "POST")
	field(":scheme", "http")
	field(":path", path)
	field(":authority", c.target)
	field("te", "trailers")
	field("content-type", "application/grpc")
	field("user-agent", "maitred-bench")
	for _, pair := range c.metadata {
		field(pair[0], pair[1])
	}
	c.frame(frameHeaders, flagEndHeaders, s.id, c.encoded.Bytes())
	size := len(message) + 5
	c.out = append(c.out, byte(size>>16), byte(size>>8), byte(size), frameData, flagEndStream)
	c.out = binary.BigEndian.AppendUint32(c.out, s.id)
	c.out = append(c.out, 0)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(message)))
	c.out = append(c.out, message...)
}

// run reads and answers until done says so.
func (c *conn) run(done func() bool) error {
	for !done() {
		if c.in.Buffered() == 0 {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if err := c.read(); err != nil {
			return err
		}
	}
	return c.flush()
}

func (c *conn) read() error {
	var header [9]byte
	if err := readFull(c.in, header[:]); err != nil {
		return err
	}
	size := int(header[0])<<16 | int(header[1])<<8 | int(header[2])
	kind, flags := header[3], header[4]
	id := binary.BigEndian.Uint32(header[5:]) & 0x7fffffff
	if size > len(c.scratch) {
		c.scratch = make([]byte, size)
	}
	payload := c.scratch[:size]
	if err := readFull(c.in, payload); err != nil {
		return err
	}
	switch kind {
	case frameData:
		c.consumed(uint32(size))
		if s := c.streams[id]; s != nil {
			s.receive(unpad(payload, flags))
			if flags&flagEndStream != 0 {
				c.end(s)
			}
		}
	case frameHeaders:
		payload = unpad(payload, flags)
		if flags&flagPriority != 0 {
			payload = payload[5:]
		}
		c.current, c.currentEnd = c.streams[id], flags&flagEndStream != 0
		return c.headers(payload, flags)
	case frameContinuation:
		return c.headers(payload, flags)
	case frameReset:
		if s := c.streams[id]; s != nil {
			s.status, s.text = "reset", fmt.Sprint("RST_STREAM ", binary.BigEndian.Uint32(payload))
			c.end(s)
		}
	case frameSettings:
		if flags&flagAck == 0 {
			c.frame(frameSettings, flagAck, 0, nil)
		}
	case framePing:
		if flags&flagAck == 0 {
			c.frame(framePing, flagAck, 0, payload)
		}
	case frameGoAway:
		return fmt.Errorf("GOAWAY: %q", payload[8:])
	case frameWindowUpdate:
		if id == 0 {
			c.room += int64(binary.BigEndian.Uint32(payload))
			waiting := c.waiting
			c.waiting = nil
			for _, again := range waiting {
				again()
			}
		}
	}
	return nil
}

func (c *conn) headers(block []byte, flags byte) error {
	if _, err := c.decoder.Write(block); err != nil {
		return err
	}
	if flags&flagEndHeaders == 0 {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	if c.current != nil && c.currentEnd {
		c.end(c.current)
	}
	c.current = nil
	return nil
}

func (c *conn) end(s *stream) {
	delete(c.streams, s.id)
	if s.status == "" {
		s.status, s.text = "none", "the stream ended without a grpc-status"
	}
	s.onEnd(s.status, s.text)
}

// consumed gives the server room again, seldom.
func (c *conn) consumed(size uint32) {
	c.unread += size
	if c.unread > connectionWindow/2 {
		c.frame(frameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, c.unread))
		c.unread = 0
	}
}

// receive cuts gRPC messages out of the bytes of a stream.
func (s *stream) receive(data []byte) {
	if len(s.partial) > 0 {
		s.partial = append(s.partial, data...)
		data = s.partial
	}
	for len(data) >= 5 {
		size := int(binary.BigEndian.Uint32(data[1:]))
		if len(data) < 5+size {
			break
		}
		s.onMessage(data[5 : 5+size])
		data = data[5+size:]
	}
	s.partial = append(s.partial[:0], data...)
}

func unpad(payload []byte, flags byte) []byte {
	if flags&flagPadded == 0 {
		return payload
	}
	return payload[1 : len(payload)-int(payload[0])]
}

func readFull(in *bufio.Reader, into []byte) error {
	for read := 0; read < len(into); {
		n, err := in.Read(into[read:])
		read += n
		if err != nil {
			return err
		}
	}
	return nil
}
