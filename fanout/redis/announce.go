package redisfan

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"parley/shard"
	"parley/store"
)

// standIn takes the place of an offset that is not known yet. Nobody can guess it, as it is never sent, so that in an
// encoded message it is found where it was put, and nowhere else.
type standIn struct {
	offset     store.Offset
	epoch, seq string    // as MessagePack has them
	digits     [2]string // of both, as a text has them
}

// newStandIn returns one whose numbers JavaScript can hold, and which take all bytes that a number may have.
func newStandIn() standIn {
	number := func() uint64 { return 1<<52 + rand.Uint64N(1<<52) } //nolint:gosec // seeded from the system's randomness
	encoded := func(n uint64) string { return string(binary.BigEndian.AppendUint64([]byte{0xcf}, n)) }
	offset := store.Offset{Epoch: number(), Seq: number()}
	digits := [2]string{strconv.FormatUint(offset.Epoch, 10), strconv.FormatUint(offset.Seq, 10)}
	return standIn{offset, encoded(offset.Epoch), encoded(offset.Seq), digits}
}

// cut returns what is before, between and after the number, the epoch and the number.
func (s standIn) cut(body string) (parts [4]string, ok bool) {
	for i, number := range []string{s.seq, s.epoch, s.seq} {
		if parts[i], body, ok = strings.Cut(body, number); !ok {
			return parts, false
		}
	}
	parts[3] = body
	more := func(part string) bool {
		return slices.ContainsFunc([]string{s.seq, s.epoch, s.digits[0], s.digits[1]}, func(n string) bool { return strings.Contains(part, n) })
	}
	return parts, !slices.ContainsFunc(parts[:], more)
}

// Announcement implements fanout.Fanout. A message that the store publishes must not overtake what its sender emitted before:
// there is none while something waits to be published. In a Cluster the mailbox's server is seldom the one where all is
// published, and it refuses a sharded channel of another slot.
func (f *Fanout) Announcement(mail func(store.Offset) shard.Mail) *store.Announcement {
	if _, cluster := f.options.Client.(*redis.ClusterClient); cluster || f.options.Sharded || !f.publisher.idle() {
		return nil
	}
	m := mail(f.standIn.offset)
	if m.Text == nil {
		return nil
	}
	channel, body, err := f.protocol.broadcast(f.broadcastOf(&m))
	if err != nil || len(body) > f.options.MaxMessage {
		return nil // Deliver says so
	}
	parts, ok := f.standIn.cut(string(body))
	if !ok {
		return nil // an event that does not have its number once, as a number
	}
	return &store.Announcement{Channel: channel, Parts: parts}
}
