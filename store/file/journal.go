package file

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"parley/store"
	"parley/store/internal/row"
)

// The journal is two files that take turns. Each turn has a number and starts at the beginning of its file, over what
// an earlier turn left there. A file is a row of frames, one per group:
//
//	size of the payload 4, CRC-32C of turn and payload 4, turn 8, payload
//
// A turn ends where no frame of it follows: at a stale frame, at zeros, or at a frame that was cut off by a crash, which
// nobody was told about.
const (
	frameHeaderBytes = 16
	// maxFrameBytes is more than any group has: what claims to be larger is no frame.
	maxFrameBytes = 1 << 30
	// growBytes is how much a file of the journal grows at a time.
	growBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journalName is the file of a turn.
func journalName(turn uint64) string { return fmt.Sprintf("parley.log.%d", turn%2) }

// journal is written by one goroutine.
type journal struct {
	files [2]*os.File
	sizes [2]int64
	turn  uint64
	at    int64 // where the next frame goes
	frame []byte
	// blocks is for what is written, in whole blocks. It begins with what the file has before at in the same block.
	blocks []byte
	// Replaced by tests.
	writeAt func(f *os.File, data []byte, at int64) (int, error)
	sync    func(*os.File) error
}

// syncError means that the journal was written, but may or may not be on disk.
type syncError struct{ error }

func (e syncError) Unwrap() error { return e.error }

// openJournal opens the two files, making them if they are missing, for that turn.
func openJournal(dir string, turn uint64) (*journal, error) {
	j := &journal{turn: turn, writeAt: (*os.File).WriteAt, sync: syncData}
	for i := range uint64(2) {
		f, err := openDirect(filepath.Join(dir, journalName(i)))
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		j.files[i] = f
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, j.close())
		}
		j.sizes[i] = info.Size() &^ (blockBytes - 1) // a part of a block is written over
	}
	return j, syncDir(dir)
}

func (j *journal) close() error {
	var errs []error
	for _, f := range j.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// next starts the next turn.
func (j *journal) next() { j.turn, j.at = j.turn+1, 0 }

// reserve fills the file of this turn with zeros up to size and somewhat beyond: it takes a disk much longer to sync
// data that makes a file grow.
func (j *journal) reserve(size int64) error {
	have := &j.sizes[j.turn%2]
	if size <= *have {
		return nil
	}
	n, err := j.writeAt(j.files[j.turn%2], newBlocks(wholeBlocks(size-*have+growBytes)), *have)
	*have += int64(n) &^ (blockBytes - 1)
	return err
}

// put writes data at j.at, and zeros up to the end of the block.
func (j *journal) put(data []byte) error {
	skip := int(j.at % blockBytes)
	end := skip + len(data)
	size := wholeBlocks(int64(end))
	if err := j.reserve(j.at - int64(skip) + size); err != nil {
		return err
	}
	if int64(len(j.blocks)) < size {
		larger := newBlocks(size)
		copy(larger, j.blocks[:min(skip, len(j.blocks))])
		j.blocks = larger
	}
	copy(j.blocks[skip:], data)
	clear(j.blocks[end:size])
	_, err := j.writeAt(j.files[j.turn%2], j.blocks[:size], j.at-int64(skip))
	return err
}

// advance goes on behind what was put and is durable.
func (j *journal) advance(n int) {
	skip := int(j.at % blockBytes)
	if end := skip + n; end >= blockBytes {
		copy(j.blocks, j.blocks[end&^(blockBytes-1):end])
	}
	j.at += int64(n)
	if len(j.blocks) > groupBytes { // one large group need not be paid for ever after
		blocks := newBlocks(blockBytes)
		copy(blocks, j.blocks)
		j.blocks = blocks
	}
}

// write makes a frame of the messages durable. After an error the next frame takes its place, but not after a
// [syncError]: then the frame is whole, and would be read if the next one went to another turn.
func (j *journal) write(messages []*logged) error {
	j.frame = append(j.frame[:0], make([]byte, frameHeaderBytes)...)
	for _, m := range messages {
		j.frame = m.append(j.frame)
	}
	size := len(j.frame) - frameHeaderBytes
	binary.BigEndian.PutUint32(j.frame, uint32(size))
	binary.BigEndian.PutUint64(j.frame[8:], j.turn)
	binary.BigEndian.PutUint32(j.frame[4:], crc32.Checksum(j.frame[8:], castagnoli))
	if err := j.put(j.frame); err != nil {
		return err
	}
	if err := j.sync(j.files[j.turn%2]); err != nil {
		return syncError{err}
	}
	j.advance(len(j.frame))
	if cap(j.frame) > groupBytes {
		j.frame = nil // as above
	}
	return nil
}

// turnOf is what a file of the journal has of its latest turn.
type turnOf struct {
	turn     uint64
	messages []logged
}

// readJournal reads the two files without changing them, and returns their turns after the given one, in order.
func readJournal(dir string, after uint64) ([]turnOf, error) {
	var turns []turnOf
	for i := range uint64(2) {
		path := filepath.Join(dir, journalName(i))
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) && after == 0 {
			continue // a process was killed before it had made them
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, damage("%s is missing", journalName(i))
		}
		if err != nil {
			return nil, err
		}
		t, err := readTurn(data, after)
		if err != nil {
			return nil, damage("%s: %v", filepath.Base(path), err)
		}
		if len(t.messages) > 0 {
			turns = append(turns, t)
		}
	}
	if len(turns) == 2 && turns[0].turn > turns[1].turn {
		turns[0], turns[1] = turns[1], turns[0]
	}
	return turns, nil
}

// readFrame returns the first frame of data, if it is whole.
func readFrame(data []byte) (turn uint64, payload, rest []byte, ok bool) {
	if len(data) < frameHeaderBytes {
		return 0, nil, nil, false
	}
	size := binary.BigEndian.Uint32(data)
	if size == 0 || size > maxFrameBytes || int(size) > len(data)-frameHeaderBytes {
		return 0, nil, nil, false
	}
	end := frameHeaderBytes + int(size)
	if crc32.Checksum(data[8:end], castagnoli) != binary.BigEndian.Uint32(data[4:]) {
		return 0, nil, data[end:], false
	}
	return binary.BigEndian.Uint64(data[8:]), data[frameHeaderBytes:end], data[end:], true
}

// readTurn reads the frames of one file, unless its turn is not later than after.
func readTurn(data []byte, after uint64) (t turnOf, err error) {
	for first := true; ; first = false {
		turn, payload, rest, ok := readFrame(data)
		if !ok {
			// Frames are written one after the other: only the last can have been cut off.
			if next, _, _, ok := readFrame(rest); ok && next > after && (first || next == t.turn) {
				return t, errors.New("a frame in the middle is not what was written")
			}
			return t, nil
		}
		if first && turn <= after || !first && turn != t.turn {
			return t, nil
		}
		t.turn = turn
		fields := row.Read(payload)
		for fields.More() {
			m, err := readLogged(&fields)
			if err != nil {
				return t, err
			}
			t.messages = append(t.messages, m)
		}
		data = rest
	}
}

// logged is a message as the journal has it: with the mailboxes that it was added to.
type logged struct {
	known   messageKey
	at      int64 // when it was posted, unix milliseconds
	touched int64 // when it was added
	id      string
	origin  string
	data    []byte
	to      []loggedDelivery
}

type loggedDelivery struct {
	boxKey     string
	peer       string
	sent       bool
	epoch, seq uint64
}

// newLogged returns an empty message with room for so many mailboxes.
func newLogged(mailboxes int) *logged {
	if mailboxes > 2 {
		return &logged{to: make([]loggedDelivery, 0, mailboxes)}
	}
	m := new(struct { // nearly all: in one piece
		logged
		to [2]loggedDelivery
	})
	m.logged.to = m.to[:0]
	return &m.logged
}

func (m *logged) entry(d *loggedDelivery) entry {
	return entry{at: m.at, known: m.known, id: m.id, peer: d.peer, sent: d.sent, origin: m.origin, data: m.data}
}

// in returns the number of the message in a mailbox, or 0.
func (m *logged) in(epoch uint64) uint64 {
	for i := range m.to {
		if m.to[i].epoch == epoch {
			return m.to[i].seq
		}
	}
	return 0
}

// sentBit is written with the number of an entry that the mailbox's owner has sent. Numbers do not come that far.
const sentBit = 1 << 63

func (m *logged) append(dst []byte) []byte {
	dst = append(dst, m.known[:]...)
	dst = row.AppendUint(dst, uint64(m.at))
	dst = row.AppendUint(dst, uint64(m.touched))
	dst = row.AppendString(dst, m.id)
	dst = row.AppendString(dst, m.origin)
	dst = row.AppendString(dst, m.data)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.to)))
	for _, d := range m.to {
		dst = row.AppendString(dst, d.boxKey)
		dst = row.AppendString(dst, d.peer)
		dst = row.AppendUint(dst, d.epoch)
		seq := d.seq
		if d.sent {
			seq |= sentBit
		}
		dst = row.AppendUint(dst, seq)
	}
	return dst
}

func readLogged(fields *row.Reader) (m logged, err error) {
	copy(m.known[:], fields.Raw(len(m.known)))
	m.at, m.touched = int64(fields.Uint()), int64(fields.Uint())
	m.id, m.origin, m.data = fields.String(), fields.String(), fields.Bytes()
	n := uint32(0)
	if count := fields.Raw(4); count != nil {
		n = binary.BigEndian.Uint32(count)
	}
	if n > store.MaxDeliveries {
		return m, fmt.Errorf("a message in %d mailboxes: %w", n, row.ErrDamaged)
	}
	for range n {
		d := loggedDelivery{boxKey: fields.String(), peer: fields.String(), epoch: fields.Uint()}
		seq := fields.Uint()
		d.sent, d.seq = seq&sentBit != 0, seq&^sentBit
		m.to = append(m.to, d)
	}
	return m, fields.Err()
}
