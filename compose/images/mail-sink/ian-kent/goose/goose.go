// Package goose tells browsers that wait on /api/v1/events what happens (server-sent events): the part that MailHog calls.
package goose

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// patience is how long a receiver may take to accept an event; one that does not read is dropped.
const patience = time.Second

// EventStream is everybody who listens.
type EventStream struct {
	mutex     sync.Mutex
	receivers map[net.Conn]struct{}
}

// NewEventStream is a stream that nobody listens to yet.
func NewEventStream() *EventStream {
	return &EventStream{receivers: map[net.Conn]struct{}{}}
}

// AddReceiver takes the connection over: it stays open when the request's handler has returned.
func (stream *EventStream) AddReceiver(w http.ResponseWriter) {
	var head bytes.Buffer
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Connection", "close")
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = w.Header().Write(&head)
	head.WriteString("\r\n")
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	stream.mutex.Lock()
	defer stream.mutex.Unlock()
	stream.receivers[connection] = struct{}{}
	stream.send(connection, head.Bytes())
}

// Notify sends an event to all receivers.
func (stream *EventStream) Notify(event string, data []byte) {
	var message bytes.Buffer
	fmt.Fprintf(&message, "event: %s\n", event)
	for part := range bytes.SplitSeq(data, []byte("\n")) {
		fmt.Fprintf(&message, "data: %s\n", part)
	}
	message.WriteString("\n")
	stream.mutex.Lock()
	defer stream.mutex.Unlock()
	for connection := range stream.receivers {
		stream.send(connection, message.Bytes())
	}
}

func (stream *EventStream) send(connection net.Conn, message []byte) {
	_ = connection.SetWriteDeadline(time.Now().Add(patience))
	if _, err := connection.Write(message); err != nil {
		connection.Close()
		delete(stream.receivers, connection)
	}
}
