// Calls the methods of tests/support/wired.py by grpc-go: client HOST:PORT. Prints what came of each
// case as one line of JSON; tests/serving/server/wire/test_stacks.py says what must.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const patience = 20 * time.Second

// plain passes messages on as they are.
type plain struct{}

func (plain) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }

func (plain) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

func (plain) Name() string { return "proto" }

var connection *grpc.ClientConn

func unary(name string, message []byte, limit time.Duration, pairs ...string) ([]byte, error) {
	limited, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	limited = metadata.AppendToOutgoingContext(limited, pairs...)
	var answer []byte
	err := connection.Invoke(limited, "/tests.Interop/"+name, &message, &answer)
	return answer, err
}

func random(size int) []byte {
	message := make([]byte, size)
	rand.Read(message)
	return message
}

func echoes(size int) bool {
	message := random(size)
	answer, err := unary("echo", message, patience)
	return err == nil && bytes.Equal(message, answer)
}

func many() bool {
	var group sync.WaitGroup
	answered := make([]bool, 100)
	for number := range answered {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			answered[number] = echoes(1 + 997*number)
		}(number)
	}
	group.Wait()
	for _, one := range answered {
		if !one {
			return false
		}
	}
	return true
}

func headers(key string) interface{} {
	pairs := []string{"x-one", "a b", "x-one-bin", string([]byte{0, 255, 10})}
	answer, err := unary("headers", []byte(key), patience, pairs...)
	if err != nil {
		return err.Error()
	}
	return json.RawMessage(answer)
}

// converse sends a message of each size once the one before was answered; the status at the end. It
// cancels after the first answer where it is told to.
func converse(sizes []int, cancels bool) codes.Code {
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	stream, err := connection.NewStream(limited, desc, "/tests.Interop/converse")
	for _, size := range sizes {
		message := random(size)
		var answer []byte
		if err == nil {
			err = stream.SendMsg(&message)
		}
		if err == nil {
			err = stream.RecvMsg(&answer)
		}
		if err != nil || !bytes.Equal(message, answer) {
			return codes.Unknown
		}
	}
	if cancels {
		cancel()
	} else if err = stream.CloseSend(); err != nil {
		return codes.Unknown
	}
	var more []byte
	if err = stream.RecvMsg(&more); err == io.EOF {
		return codes.OK
	}
	return status.Code(err)
}

func main() {
	options := []grpc.CallOption{
		grpc.ForceCodec(plain{}),
		grpc.MaxCallRecvMsgSize(1 << 30),
	}
	opened, err := grpc.Dial(
		os.Args[1], grpc.WithInsecure(), grpc.WithDefaultCallOptions(options...))
	if err != nil {
		panic(err)
	}
	connection = opened
	empty, err := unary("empty", []byte{}, patience)
	if err != nil {
		panic(err)
	}
	_, failed := unary("fail", []byte("[\"ABORTED\", \"100 % \u263a\", \"\"]"), patience)
	_, unknown := unary("missing", []byte{0}, patience)
	_, late := unary("sleep", []byte{0}, 100*time.Millisecond)
	found := map[string]interface{}{
		"empty":     len(empty),
		"small":     echoes(10),
		"large":     echoes(5 << 20),
		"many":      many(),
		"text":      headers("x-one"),
		"bytes":     headers("x-one-bin"),
		"failed":    []interface{}{status.Code(failed), status.Convert(failed).Message()},
		"unknown":   status.Code(unknown),
		"late":      status.Code(late),
		"pingPong":  converse([]int{27182, 8, 1828, 45904}, false),
		"cancelled": converse([]int{1}, true),
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		panic(err)
	}
}
