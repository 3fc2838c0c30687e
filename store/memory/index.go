package memory

// index finds the numbers of a mailbox's messages by their keys. It is a table of slots with linear probing, which takes a
// fraction of a map's time and memory: keys are random already, and the mailbox has them. Its zero value is empty.
type index struct {
	slots []uint64 // a tag above, the lower half of a number below; 0 is empty
	used  int
}

// tagOf returns what a slot holds of a key: its place, and enough to tell it from nearly all others. It is never 0.
func tagOf(key messageKey) uint64 { return key[0] | 1<<63 }

const (
	tagShift   = 32
	firstSlots = 8
)

// home is where a slot's contents would be if nothing else were there.
func (x *index) home(slot uint64) int { return int(slot>>tagShift) & (len(x.slots) - 1) }

// find returns the number of the message with that key in b, of which x is the index.
func (x *index) find(b *mailbox, key messageKey) (seq uint64, ok bool) {
	if len(x.slots) == 0 {
		return 0, false
	}
	tag := tagOf(key) >> tagShift
	for i := x.home(tagOf(key)); x.slots[i] != 0; i = (i + 1) & (len(x.slots) - 1) {
		if slot := x.slots[i]; slot>>tagShift == tag {
			seq := b.first + uint64(uint32(slot)-uint32(b.first)) //nolint:gosec // the lower halves differ by less than there are messages
			if b.message(seq).key == key {
				return seq, true
			}
		}
	}
	return 0, false
}

// slotOf returns what stands for a message.
func slotOf(key messageKey, seq uint64) uint64 {
	return tagOf(key)>>tagShift<<tagShift | seq&(1<<tagShift-1)
}

// add puts in a message that is not in.
func (x *index) add(key messageKey, seq uint64) {
	if x.used >= len(x.slots)/4*3 {
		old := x.slots
		x.slots = make([]uint64, max(firstSlots, 2*len(old)))
		for _, slot := range old {
			if slot != 0 {
				x.put(slot)
			}
		}
	}
	x.put(slotOf(key, seq))
	x.used++
}

func (x *index) put(slot uint64) {
	i := x.home(slot)
	for x.slots[i] != 0 {
		i = (i + 1) & (len(x.slots) - 1)
	}
	x.slots[i] = slot
}

// remove takes out a message, which must be in. What follows it moves up, so that there are no gaps on the way from a
// home to what belongs there.
func (x *index) remove(key messageKey, seq uint64) {
	mask, slot := len(x.slots)-1, slotOf(key, seq)
	gap := x.home(slot)
	for x.slots[gap] != slot {
		gap = (gap + 1) & mask
	}
	for i := (gap + 1) & mask; x.slots[i] != 0; i = (i + 1) & mask {
		if (i-x.home(x.slots[i]))&mask >= (i-gap)&mask {
			x.slots[gap] = x.slots[i]
			gap = i
		}
	}
	x.slots[gap] = 0
	x.used--
}
