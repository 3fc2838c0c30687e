package socketio_test

import (
	"context"
	"testing"
	"time"

	"parley/metrics"
	"parley/socketio"
)

// TestVectors is section 13 of the specification: S1 to S20.
func TestVectors(t *testing.T) {
	t.Run("S1 connect", func(t *testing.T) {
		f := start(t, socketio.Options{})
		f.dial().connect("/")
		f.dial().connect("/", `{"token":"x"}`)
	})
	t.Run("S2 connect to a namespace", func(t *testing.T) {
		f := start(t, socketio.Options{})
		f.dial().connect("/custom")
		c := f.dial()
		c.send("40/custom")
		c.connected("/custom")
	})
	t.Run("S3 unknown namespace", func(t *testing.T) {
		f := start(t, socketio.Options{})
		c := f.dial()
		c.send("40/nope,")
		c.want(`44/nope,{"message":"Invalid namespace"}`)
		c.send("40/custom?token=1,")
		c.want(`44/custom?token=1,{"message":"Invalid namespace"}`)
		f.wantCount(metrics.ConnectsRefused, "invalid namespace", 2)
		c.connect("/") // the connection lives
	})
	t.Run("S4 refused by middleware", func(t *testing.T) {
		f := start(t, socketio.Options{})
		f.Of("/deny").Use(func(context.Context, *socketio.Socket) error {
			return &socketio.Error{Code: "denied", Message: "not allowed", Data: struct {
				Code int    `json:"code"`
				Why  string `json:"why"`
			}{42, "x"}}
		})
		c := f.dial()
		c.send("40/deny,")
		c.want(`44/deny,{"message":"not allowed","data":{"code":42,"why":"x"}}`)
		f.wantCount(metrics.ConnectsRefused, "middleware", 1)
		c.connect("/")
	})
	t.Run("S5 event", func(t *testing.T) {
		c, _, _ := start(t, socketio.Options{}).join("/")
		c.send(`42["message",1,"2",{"3":[true]}]`)
		c.want(`42["message-back",1,"2",{"3":[true]}]`)
	})
	t.Run("S6 acknowledgement", func(t *testing.T) {
		c, _, _ := start(t, socketio.Options{}).join("/")
		c.send(`42456["message-with-ack",1,"2",{"3":[false]}]`)
		c.want(`43456[1,"2",{"3":[false]}]`)
	})
	t.Run("S7 binary acknowledgement", func(t *testing.T) {
		c, _, _ := start(t, socketio.Options{}).join("/")
		c.send(`452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`)
		c.sendBinary([]byte{1, 2, 3}, []byte{4, 5, 6})
		c.want(`462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`)
		c.wantBinary([]byte{1, 2, 3}, []byte{4, 5, 6})
	})
	t.Run("S8 acknowledgement in a namespace", func(t *testing.T) {
		c, _, _ := start(t, socketio.Options{}).join("/custom")
		c.send(`42/custom,1["message-with-ack",5]`)
		c.want(`43/custom,1[5]`)
	})
	t.Run("S9 leave and come back", func(t *testing.T) {
		f := start(t, socketio.Options{})
		c, sid, _ := f.join("/")
		c.send("41")
		f.wantReason(socketio.ReasonClientDisconnect)
		if again, _ := c.connect("/"); again == sid {
			t.Fatal("the new socket has the id of the old one")
		}
	})
	t.Run("S10 event after leaving", func(t *testing.T) {
		c, _, _ := start(t, socketio.Options{}).join("/")
		c.send("41", `42["message",1]`)
		c.wantClosed()
	})
	t.Run("S11 packets out of order", func(t *testing.T) {
		f := start(t, socketio.Options{})
		for _, v := range []struct {
			join bool
			text string
		}{
			{false, `42["message",1]`}, {false, `430[]`}, {false, `41`}, {false, `44{"message":"x"}`},
			{true, `40`}, {true, `42/custom,["message",1]`}, {true, `44{"message":"x"}`}, {true, `41/custom,`},
		} {
			c := f.dial()
			if v.join {
				c.connect("/")
			}
			c.send(v.text)
			c.wantClosed()
			if v.join {
				f.wantReason("forced close")
			}
		}
		f.wantCount(metrics.PacketsRejected, "packet for a namespace that is not joined", 5)
		f.wantCount(metrics.PacketsRejected, "namespace is joined already", 1)
		f.wantCount(metrics.PacketsRejected, "packet type that only a server sends", 2)
	})
	t.Run("S12 malformed packets", func(t *testing.T) {
		f := start(t, socketio.Options{})
		for text, reason := range map[string]string{
			"4abc": "unknown packet type", "42{}": "payload does not fit packet type", `42abc["e"]`: "invalid json",
			"47": "unknown packet type", `42["disconnect"]`: "reserved event name", "4": "empty packet",
			"binary": "unexpected binary message",
		} {
			before := f.metrics.Value(metrics.PacketsRejected, reason)
			c, _, _ := f.join("/")
			if text == "binary" {
				c.sendBinary([]byte{1})
			} else {
				c.send(text)
			}
			c.wantClosed()
			f.wantReason("forced close")
			f.wantCount(metrics.PacketsRejected, reason, before+1)
		}
	})
	t.Run("S13 attachment counts", func(t *testing.T) {
		f := start(t, socketio.Options{})
		for _, text := range []string{`450-["e"]`, `4511-["e"]`, `45-["e"]`, `451["e"]`} {
			c, _, _ := f.join("/")
			c.send(text)
			c.wantClosed()
			f.wantReason("forced close")
		}
		f.wantCount(metrics.PacketsRejected, "attachment count out of range", 4)
	})
	t.Run("S14 placeholder without attachment", func(t *testing.T) {
		f := start(t, socketio.Options{})
		c, _, _ := f.join("/")
		c.send(`451-["e",{"_placeholder":true,"num":1}]`)
		c.wantClosed()
		f.wantReason("forced close")
		f.wantCount(metrics.PacketsRejected, "bad attachment placeholder", 1)
	})
	t.Run("S15 disconnect and close", func(t *testing.T) {
		f := start(t, socketio.Options{})
		joined := sockets(f.Of("/"))
		c, _, _ := f.join("/")
		c.connect("/custom")
		next(t, joined, "a socket").Disconnect(true)
		c.want("41", "41/custom,")
		c.wantClosed()
		f.wantReason(socketio.ReasonServerDisconnect)
		f.wantReason(socketio.ReasonServerDisconnect)
	})
	t.Run("S16 server asks", func(t *testing.T) {
		f := start(t, socketio.Options{})
		joined := sockets(f.Of("/"))
		c, _, _ := f.join("/")
		s := next(t, joined, "a socket")
		answer := make(chan socketio.Args, 1)
		go func() {
			args, err := s.EmitWithAck(long(t), "ask", 1)
			check(t, err)
			answer <- args
		}()
		c.want(`420["ask",1]`)
		c.send("430", `43999["x"]`, `430["a",{"b":1}]`, `430["a",{"b":1}]`)
		args := next(t, answer, "the answer")
		var a string
		var b struct{ B int }
		if args.Len() != 2 || args.Decode(0, &a) != nil || args.Decode(1, &b) != nil || a != "a" || b.B != 1 {
			t.Fatalf("got %v", args)
		}
		if args.Decode(2, &a) == nil || args.Decode(-1, &a) == nil {
			t.Fatal("an argument that is not there was decoded")
		}
		c.sync("/")
	})
	t.Run("S17 recovery", func(t *testing.T) {
		f := start(t, socketio.Options{})
		n := f.Of("/")
		n.UseRecovery(socketio.Recovery{SkipMiddlewares: true})
		joined := sockets(n)
		c, sid, pid := f.join("/")
		check(t, n.Emit("a", 1))
		offset := c.match(`42\["a",1,"([^"]+)"\]`)[0]
		c.drop()
		f.wantReason("transport close")
		check(t, n.Emit("b", 2))
		next(t, joined, "a socket")

		c = f.dial()
		c.send(`40{"pid":"` + pid + `","offset":"` + offset + `"}`)
		if again := c.match(`42\["b",2,"([^"]+)"\]`)[0]; again == offset {
			t.Fatal("two events have one offset")
		}
		if sid2, pid2 := c.connected("/"); sid2 != sid || pid2 != pid {
			t.Fatal("the ids changed")
		}
		if !next(t, joined, "the socket").Recovered() {
			t.Fatal("not marked as recovered")
		}
		f.wantCount(metrics.Recoveries, "recovered", 1)
	})
	t.Run("S18 no recovery", func(t *testing.T) {
		for name, v := range map[string]struct {
			away  time.Duration
			leave bool
			auth  func(pid, offset string) string
		}{
			"wrong offset":  {auth: func(pid, _ string) string { return `{"pid":"` + pid + `","offset":"x"}` }},
			"offset number": {auth: func(pid, _ string) string { return `{"pid":"` + pid + `","offset":1}` }},
			"wrong pid": {auth: func(_, offset string) string {
				return `{"pid":"00xxxxxxxxxxxxxxxxxx","offset":"` + offset + `"}`
			}},
			"pid number": {auth: func(_, offset string) string { return `{"pid":1,"offset":"` + offset + `"}` }},
			"no offset":  {auth: func(pid, _ string) string { return `{"pid":"` + pid + `"}` }},
			"after 41":   {leave: true},
			"expired":    {away: time.Nanosecond},
		} {
			t.Run(name, func(t *testing.T) {
				f := start(t, socketio.Options{})
				n := f.Of("/")
				n.UseRecovery(socketio.Recovery{SkipMiddlewares: true, MaxDisconnection: v.away})
				c, sid, pid := f.join("/")
				check(t, n.Emit("a", 1))
				offset := c.match(`42\["a",1,"([^"]+)"\]`)[0]
				if v.leave {
					c.send("41")
					f.wantReason(socketio.ReasonClientDisconnect)
				}
				c.drop()
				if !v.leave {
					f.wantReason("transport close")
				}
				if v.auth == nil {
					v.auth = func(pid, offset string) string { return `{"pid":"` + pid + `","offset":"` + offset + `"}` }
				}
				if sid2, pid2 := f.dial().connect("/", v.auth(pid, offset)); sid2 == sid || pid2 == pid || pid2 == "" {
					t.Fatalf("got ids %s and %s, want new ones", sid2, pid2)
				}
			})
		}
	})
	t.Run("S19 what has no offset", func(t *testing.T) {
		f := start(t, socketio.Options{})
		n := f.Of("/")
		n.UseRecovery(socketio.Recovery{SkipMiddlewares: true})
		joined := sockets(n)
		c, sid, pid := f.join("/")
		s := next(t, joined, "a socket")
		check(t, n.Emit("a"))
		offset := c.match(`42\["a","([^"]+)"\]`)[0]

		check(t, n.Volatile().Emit("v", 1))
		c.want(`42["v",1]`)
		_, err := s.EmitWithAck(short(t), "ask", "x")
		wantError(t, err, socketio.ErrTimeout)
		c.want(`420["ask","x"]`)
		_, err = n.EmitWithAck(short(t), "ask", "x")
		wantError(t, err, socketio.ErrTimeout)
		c.want(`421["ask","x"]`)
		c.sync("/")

		// A client takes any last string for an offset, so it is told the current one behind it.
		check(t, n.Volatile().Emit("v", "hello"))
		c.want(`42["v","hello","` + offset + `"]`)

		c.drop()
		f.wantReason("transport close")
		c = f.dial()
		if again, _ := c.connect("/", `{"pid":"`+pid+`","offset":"`+offset+`"}`); again != sid {
			t.Fatal("not recovered")
		}
	})
	t.Run("S20 emit from middleware", func(t *testing.T) {
		f := start(t, socketio.Options{})
		n := f.Of("/order")
		n.Use(func(_ context.Context, s *socketio.Socket) error { return s.Emit("from-mw", 1) })
		n.OnConnection(func(_ context.Context, s *socketio.Socket) { check(t, s.Emit("from-connection", 2)) })
		c := f.dial()
		c.send("40/order,")
		c.want(`42/order,["from-mw",1]`)
		c.connected("/order")
		c.want(`42/order,["from-connection",2]`)
	})
}
