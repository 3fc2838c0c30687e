package registry

// indexAbove is the size from which a set of members keeps an index of positions: below it a scan is
// faster than a map and costs no memory, and nearly all rooms (a socket's own, a user's) stay below it.
const indexAbove = 16

// members is a set of sockets that is fast to walk. Its zero value is empty, and a nil *members reads as
// empty.
type members struct {
	list  []*Socket
	index map[*Socket]int // position in list; nil while the set is small
}

func (m *members) len() int { return len(m.list) }

func (m *members) slice() []*Socket {
	if m == nil {
		return nil
	}
	return m.list
}

// add puts s in, which must not be in.
func (m *members) add(s *Socket) {
	m.list = append(m.list, s)
	switch {
	case m.index != nil:
		m.index[s] = len(m.list) - 1
	case len(m.list) > indexAbove:
		m.index = make(map[*Socket]int, 2*len(m.list))
		for i, s := range m.list {
			m.index[s] = i
		}
	}
}

// remove takes s out, which must be in. The last member takes its place.
func (m *members) remove(s *Socket) {
	i := m.position(s)
	last := len(m.list) - 1
	moved := m.list[last]
	m.list[i] = moved
	m.list[last] = nil
	m.list = m.list[:last]
	if m.index == nil {
		return
	}
	delete(m.index, s)
	if moved != s {
		m.index[moved] = i
	}
	if last <= indexAbove/2 {
		m.index = nil
		m.list = append(make([]*Socket, 0, last), m.list...)
	}
}

func (m *members) position(s *Socket) int {
	if m.index != nil {
		return m.index[s]
	}
	for i, member := range m.list {
		if member == s {
			return i
		}
	}
	panic("registry: socket is not a member")
}
