package main

import (
	"bytes"

	"github.com/lxzan/gws"
)

// broadcast serves 42["broadcast",data] by writing 42["event",data] to every connection, one after the other.
func (s *server) broadcast(_ *gws.Conn, _ *device, packet []byte) {
	_, data, ok := bytes.Cut(packet, []byte(`["broadcast",`))
	if !ok {
		return
	}
	s.everybody.send(append([]byte(`42["event",`), data...), nil)
}
