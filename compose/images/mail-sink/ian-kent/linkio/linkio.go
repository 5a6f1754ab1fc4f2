// Package linkio makes a connection as slow as a line of some speed (MailHog's --invite-jim): the part that MailHog calls.
package linkio

import (
	"io"
	"time"
)

// Throughput is a line's speed in bytes a second.
type Throughput float64

// BytePerSecond is the unit.
const BytePerSecond Throughput = 1

// Link is a slow line.
type Link struct{ speed Throughput }

// NewLink is a line of this speed.
func NewLink(speed Throughput) *Link { return &Link{speed} }

// NewLinkReader reads as fast as the line allows.
func (link *Link) NewLinkReader(end io.Reader) io.Reader { return slowReader{link, end} }

// NewLinkWriter writes as fast as the line allows.
func (link *Link) NewLinkWriter(end io.Writer) io.Writer { return slowWriter{link, end} }

type slowReader struct {
	link *Link
	end  io.Reader
}

func (reader slowReader) Read(bytes []byte) (int, error) {
	count, err := reader.end.Read(bytes)
	reader.link.carry(count)
	return count, err
}

type slowWriter struct {
	link *Link
	end  io.Writer
}

func (writer slowWriter) Write(bytes []byte) (int, error) {
	writer.link.carry(len(bytes))
	return writer.end.Write(bytes)
}

// carry takes as long as the line would.
func (link *Link) carry(count int) {
	time.Sleep(time.Duration(float64(count) / float64(link.speed) * float64(time.Second)))
}
