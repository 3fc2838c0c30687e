//go:build linux

package load

import (
	"encoding/binary"
	"errors"
)

// WebSocket opcodes (RFC 6455, section 5.2).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

var (
	errFragmented = errors.New("a fragmented frame: no server here sends one")
	errMasked     = errors.New("a masked frame from a server")
	errHuge       = errors.New("a frame of 64 MB or more")
)

// parseFrame reads the frame at the start of b. payload aliases b; size is the whole frame's. size 0 without an
// error: the frame is not complete.
func parseFrame(b []byte) (op byte, payload []byte, size int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	if b[0]&0x80 == 0 || b[0]&0x0f == 0 {
		return 0, nil, 0, errFragmented
	}
	if b[1]&0x80 != 0 {
		return 0, nil, 0, errMasked
	}
	n, header := int(b[1]), 2
	switch n {
	case 126:
		if len(b) < 4 {
			return 0, nil, 0, nil
		}
		n, header = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return 0, nil, 0, nil
		}
		long := binary.BigEndian.Uint64(b[2:])
		if long >= 64<<20 {
			return 0, nil, 0, errHuge
		}
		n, header = int(long), 10
	}
	if len(b) < header+n {
		return 0, nil, 0, nil
	}
	return b[0] & 0x0f, b[header : header+n], header + n, nil
}

// appendFrame appends a client's frame with the mask key 0, under which the payload is as it was.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = append(dst, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}
