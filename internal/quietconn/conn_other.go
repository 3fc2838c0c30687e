//go:build !linux || race

package quietconn

import "net"

// wrap returns c as it is: elsewhere than on Linux there are no such calls, and the race detector has to see them, since
// what passes through a socket is in order.
func wrap(c net.Conn) net.Conn { return c }
