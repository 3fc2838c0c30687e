package shard

import (
	"parley/engineio"
	"parley/registry"
	"parley/socketio/packet"
)

// Envelope is one event on its way: an encoded Socket.IO packet and whom it is for. It is shared by all
// shards and read-only once it was handed in.
type Envelope struct {
	Selector
	Text        []byte   // the EVENT or BINARY_EVENT packet (socketio.md section 1)
	Attachments [][]byte // the packet's binary attachments
	Flags       engineio.Flags
	Offset      OffsetMode
	Local       bool // not for other processes
	Later       bool // may wait up to laterAfter for others like it, so that one write carries them; it keeps its place in the order

	// AckID is the packet's acknowledgement id, when Acks is set.
	AckID uint64
	// Acks hears how many sockets of a shard got the event and what they answer; nil if no answer is wanted.
	Acks AckCollector

	// Message is Text and Attachments as they go to the wire; nil if whoever hands the envelope in has not built it.
	Message *engineio.Message
}

// Selector names sockets of a namespace: those in any of Rooms (all, if empty) that are in none of Except
// (socketio.md section 7).
type Selector struct {
	Namespace string
	Rooms     []string
	Except    []string
}

// OffsetMode says what becomes of an event in a namespace whose clients can recover (socketio.md section 8).
type OffsetMode uint8

const (
	// NoOffset leaves the packet as it is.
	NoOffset OffsetMode = iota
	// LogOffset appends a new offset and keeps the packet for clients that come back.
	LogOffset
	// CurrentOffset appends the offset that the client is at. It is for packets that are not kept and whose
	// last argument is a string, which a client would otherwise take for an offset.
	CurrentOffset
	// MailOffset is CurrentOffset where clients follow mailboxes. A client that is at none yet is given null.
	MailOffset
)

// AckCollector gathers the answers to one event. Its methods are called from shard goroutines and must not
// block.
type AckCollector interface {
	registry.Ack
	// Visit says, once and first, how many shards will call Expect.
	Visit(shards int)
	// Expect says how many sockets of one shard will each answer or be lost.
	Expect(sockets int)
}

// seal encodes the envelope's wire form once, for all shards.
func (e *Envelope) seal() {
	if e.Message == nil && e.Offset != LogOffset {
		e.Message = engineio.NewMessage(e.Text, e.Attachments...)
	}
}

// withOffset returns the envelope's wire form with offset as the event's last argument.
func (e *Envelope) withOffset(offset string) *engineio.Message {
	return engineio.NewMessage(packet.AppendArg(nil, e.Text, offset), e.Attachments...)
}

// withoutOffset returns the envelope's wire form with null as the event's last argument.
func (e *Envelope) withoutOffset() *engineio.Message {
	return engineio.NewMessage(packet.AppendNull(nil, e.Text), e.Attachments...)
}
