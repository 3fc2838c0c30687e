package wire

import "testing"

// message is a private message as it is told to the recipient's devices.
func message() *Broadcast {
	return &Broadcast{
		UID: "AbCd12",
		Event: Event{Namespace: "/", Data: []byte(`["private message",{"id":"0192f0c1-7b3a-7c1e-9d63-0d1e6a5c4b3a","content":"` +
			`It is sixty-four bytes long, as the messages of the bench are.!!` + `","from":"user-000123","to":"user-000456","at":1763705145123}]`)},
		Opts: Opts{
			Rooms: []string{"user-000456"}, Except: []string{"0123456789abcdefghij"},
			Mail: &Mail{"chat", "user-000456", 1763705145000000123, 7, "0123456789abcdefghij"},
		},
	}
}

func BenchmarkEncode(b *testing.B) {
	m := message()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	body, err := message().Encode()
	if err != nil {
		b.Fatal(err)
	}
	text := string(body)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := (Decoder{}).Broadcast(text); err != nil {
			b.Fatal(err)
		}
	}
}
