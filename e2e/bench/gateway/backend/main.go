// A model server that computes nothing: it answers every request with the same bytes, by HTTP/1.1 and by gRPC over
// h2c, both on one port. `backend ADDRESS`
//
// It knows as much of the protocols as the answer needs, so that what is measured is the proxy before it: no header is
// decoded but Content-Length, and nothing waits for a flow-control window, which answers this small do not fill.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
)

const (
	buffer  = 64 << 10
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameHead    = 9
	data         = 0
	headers      = 1
	settings     = 4
	ping         = 6
	windowUpdate = 8
	endStream    = 1
	ack          = 1
	endHeaders   = 4

	// Of the connection's window what is not there from the beginning, and how much of it may be used up before it
	// is given back.
	window = 1<<31 - 1 - 65535
	used   = 1 << 30
)

const body = `{"model_name":"bench","outputs":[{"name":"y","datatype":"FP32","shape":[1,3],"data":[0.1,0.2,0.7]}]}`

var (
	rest = []byte(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(body), body))
	// ":status: 200" by its index, "content-type" by the index of its name; "grpc-status" in full.
	head    = []byte("\x88\x0f\x10\x10application/grpc")
	message = []byte("\x00\x00\x00\x00\x07\x0a\x05bench") // ModelInferResponse{model_name: "bench"}
	trailer = []byte("\x00\x0bgrpc-status\x010")
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(connection)
	}
}

func serve(connection net.Conn) {
	defer connection.Close()
	reader, writer := bufio.NewReaderSize(connection, buffer), bufio.NewWriterSize(connection, buffer)
	begin, err := reader.Peek(3) // less than the shortest request
	if err != nil {
		return
	}
	next := answerREST
	if string(begin) == preface[:3] {
		conversation := &h2{}
		if err := conversation.begin(reader, writer); err != nil {
			return
		}
		next = conversation.answer
	}
	for {
		if err := next(reader, writer); err != nil {
			return
		}
		// What came together is answered together.
		if reader.Buffered() == 0 {
			if err := writer.Flush(); err != nil {
				return
			}
		}
	}
}

func answerREST(reader *bufio.Reader, writer *bufio.Writer) error {
	length := 0
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, found := bytes.Cut(line, []byte(":")); found && strings.EqualFold(string(name), "content-length") {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if _, err := reader.Discard(length); err != nil {
		return err
	}
	_, err := writer.Write(rest)
	return err
}

type h2 struct {
	received int
	frame    [frameHead]byte
}

func (c *h2) begin(reader *bufio.Reader, writer *bufio.Writer) error {
	if _, err := reader.Discard(len(preface)); err != nil {
		return err
	}
	c.send(writer, settings, 0, 0, nil)
	c.grow(writer, window)
	return writer.Flush()
}

// answer reads one frame, and answers if a request ends with it. Errors of writing show at the next flush.
func (c *h2) answer(reader *bufio.Reader, writer *bufio.Writer) error {
	if _, err := io.ReadFull(reader, c.frame[:]); err != nil {
		return err
	}
	length := int(c.frame[0])<<16 | int(c.frame[1])<<8 | int(c.frame[2])
	kind, flags, stream := c.frame[3], c.frame[4], binary.BigEndian.Uint32(c.frame[5:])
	if kind == ping && flags&ack == 0 {
		payload := make([]byte, length)
		if _, err := io.ReadFull(reader, payload); err != nil {
			return err
		}
		c.send(writer, ping, ack, 0, payload)
		return nil
	}
	if _, err := reader.Discard(length); err != nil {
		return err
	}
	switch {
	case kind == settings && flags&ack == 0:
		c.send(writer, settings, ack, 0, nil)
	case (kind == headers || kind == data) && flags&endStream != 0:
		c.send(writer, headers, endHeaders, stream, head)
		c.send(writer, data, 0, stream, message)
		c.send(writer, headers, endHeaders|endStream, stream, trailer)
	}
	if kind == data {
		if c.received += length; c.received > used {
			c.grow(writer, c.received)
			c.received = 0
		}
	}
	return nil
}

func (c *h2) grow(writer *bufio.Writer, by int) {
	c.send(writer, windowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(by)))
}

func (c *h2) send(writer *bufio.Writer, kind, flags byte, stream uint32, payload []byte) {
	length := len(payload)
	frame := [frameHead]byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags}
	binary.BigEndian.PutUint32(frame[5:], stream)
	writer.Write(frame[:])
	writer.Write(payload)
}
