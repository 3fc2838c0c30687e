package main

import (
	"strconv"
	"time"

	"github.com/lxzan/gws"
)

// notify serves 42/socket,["message",{"event":"sendMessage",…}].
func (s *server) notify(c *gws.Conn, d *device, packet []byte) {
	seq := d.user.seq.Add(1)
	b := make([]byte, 0, 256)
	b = append(append(b, `42/socket,["message",{"event":"message_sent","id":"`...), d.user.id...)
	b = append(append(b, `","args":{"message":"A message from user with id: `...), d.user.id...)
	b = append(b, ` has been send"}},"dn0qn6wyhteg-`...)
	b = append(strconv.AppendUint(b, seq, 10), `"]`...)
	d.user.send(b, nil)
	ack := ackID(packet)[len("/socket,"):]
	if len(ack) > 0 {
		b = append(append(append(b[:0], "43/socket,"...), ack...), `[{"id":"`...)
		b = strconv.AppendUint(appendID(b, s.next.Add(1)), seq, 10)
		b = append(strconv.AppendInt(append(b, `,"at":`...), time.Now().UnixMilli(), 10), "}]"...)
		send(c, b)
	}
}
