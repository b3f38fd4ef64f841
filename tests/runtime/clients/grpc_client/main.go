// Command grpc_client calls a gRPC server of which it knows nothing but what reflection tells.
//
//	grpc_client [flags] ADDRESS                 the services that there are, as JSON
//	grpc_client [flags] ADDRESS SERVICE/METHOD  requests from stdin, a JSON message a line; outcomes to stdout, likewise
//
// Requests of a unary method are sent all at once and their outcomes printed in the order of the requests. Those of a
// stream are sent one after the other while the answers are read; the last line is how it ended.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

const most = 256 << 20 // bytes of a message; Go's own limit is 4 MiB

// outcome is what came of a request, or how a stream ended.
type outcome struct {
	Code   string          `json:"code"`
	Text   string          `json:"text,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

func outcomeOf(answer *dynamicpb.Message, err error) outcome {
	state := status.Convert(err)
	result := outcome{Code: state.Code().String(), Text: state.Message()}
	if err == nil && answer != nil {
		text, err := protojson.Marshal(answer)
		if err != nil {
			return outcome{Code: "not JSON", Text: err.Error()}
		}
		result.Answer = text
	}
	return result
}

type client struct {
	connection *grpc.ClientConn
	method     protoreflect.MethodDescriptor
	timeout    time.Duration
	options    []grpc.CallOption
}

func (c *client) path() string {
	return fmt.Sprintf("/%s/%s", c.method.Parent().FullName(), c.method.Name())
}

func (c *client) unary(requests []*dynamicpb.Message) []outcome {
	outcomes := make([]outcome, len(requests))
	var running sync.WaitGroup
	for index, request := range requests {
		running.Add(1)
		go func() {
			defer running.Done()
			ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
			defer cancel()
			answer := dynamicpb.NewMessage(c.method.Output())
			err := c.connection.Invoke(ctx, c.path(), request, answer, c.options...)
			outcomes[index] = outcomeOf(answer, err)
		}()
	}
	running.Wait()
	return outcomes
}

func (c *client) stream(requests []*dynamicpb.Message) []outcome {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	shape := &grpc.StreamDesc{ClientStreams: c.method.IsStreamingClient(), ServerStreams: true}
	stream, err := c.connection.NewStream(ctx, shape, c.path(), c.options...)
	if err != nil {
		return []outcome{outcomeOf(nil, err)}
	}
	go func() {
		for _, request := range requests {
			if stream.SendMsg(request) != nil {
				return // receiving says why
			}
		}
		stream.CloseSend()
	}()
	outcomes := []outcome{}
	for {
		answer := dynamicpb.NewMessage(c.method.Output())
		err := stream.RecvMsg(answer)
		if errors.Is(err, io.EOF) {
			return append(outcomes, outcome{Code: "OK"})
		}
		outcomes = append(outcomes, outcomeOf(answer, err))
		if err != nil {
			return outcomes
		}
	}
}

func read(input io.Reader, shape protoreflect.MessageDescriptor) ([]*dynamicpb.Message, error) {
	text, err := io.ReadAll(bufio.NewReader(input))
	if err != nil {
		return nil, err
	}
	requests := []*dynamicpb.Message{}
	for _, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		request := dynamicpb.NewMessage(shape)
		if err := protojson.Unmarshal(line, request); err != nil {
			return nil, err
		}
		requests = append(requests, request)
	}
	return requests, nil
}

func run() error {
	timeout := flag.Duration("timeout", time.Minute, "deadline of each call")
	compress := flag.Bool("gzip", false, "send compressed messages")
	flag.Parse()
	connection, err := grpc.NewClient(
		flag.Arg(0),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most), grpc.MaxCallSendMsgSize(most)),
	)
	if err != nil {
		return err
	}
	defer connection.Close()
	schema, err := newAsker(context.Background(), connection)
	if err != nil {
		return err
	}
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	lines := json.NewEncoder(output)
	if flag.NArg() == 1 {
		names, err := schema.services()
		if err != nil {
			return err
		}
		return lines.Encode(names)
	}
	service, name, _ := strings.Cut(flag.Arg(1), "/")
	method, err := schema.method(service, name)
	if err != nil {
		return err
	}
	requests, err := read(os.Stdin, method.Input())
	if err != nil {
		return err
	}
	call := &client{connection: connection, method: method, timeout: *timeout}
	if *compress {
		call.options = append(call.options, grpc.UseCompressor(gzip.Name))
	}
	ask := call.unary
	if method.IsStreamingServer() {
		ask = call.stream
	}
	for _, each := range ask(requests) {
		if err := lines.Encode(each); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
