package redisstore

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"parley/store"
)

// itemHead returns what a mailbox's list holds of a post up to the number, which the script adds with the time; whole is
// true if the number is not written in: data that is not a JSON object with members stays as it is.
func itemHead(data []byte, id string, shared bool) (head string, whole bool) {
	if !shared || !isObject(data) {
		return string(data), true
	}
	return string(data[:len(data)-1]) + `,"id":` + quote(id) + `,"seq":`, false
}

// isObject reports whether data looks like a JSON object with at least one member, so that more can be appended.
func isObject(data []byte) bool {
	return len(data) > 4 && data[0] == '{' && data[1] == '"' && data[len(data)-1] == '}' && data[len(data)-2] != ','
}

func quote(s string) string {
	if isPlain(s) {
		return `"` + s + `"`
	}
	b, err := json.Marshal(s)
	if err != nil {
		return `""` // a string can always be written
	}
	return string(b)
}

// isPlain reports whether JSON has a string as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// restOfFacts is what is known of an entry that is posted, from keyLength on (see facts in mailbox.lua).
func restOfFacts(key string, to store.Delivery, origin string) string {
	sent := "0"
	if to.Sent {
		sent = "00"
	}
	return sent + strconv.Itoa(len(key)) + " " + strconv.Itoa(len(to.Peer)) + " " + key + to.Peer + origin
}

// facts is what is known of an entry: "at wrote keyLength peerLength " key peer origin (mailbox.lua).
type facts struct {
	at           int64
	wrote        uint64 // the number that is written in the item; 0 for none
	id           string // empty for what a Node server pushed
	peer, origin string
}

func parseFacts(s string) (f facts, ok bool) {
	var n [4]uint64
	for i := range n {
		field, rest, found := strings.Cut(s, " ")
		v, err := strconv.ParseUint(field, 10, 63)
		if !found || err != nil {
			return f, false
		}
		n[i], s = v, rest
	}
	if n[2] > uint64(len(s)) || n[3] > uint64(len(s))-n[2] {
		return f, false
	}
	key, rest := s[:n[2]], s[n[2]:]
	f = facts{at: int64(n[0]), wrote: n[1], peer: rest[:n[3]], origin: rest[n[3]:]}
	if key != "" {
		size, text, _ := strings.Cut(key, ":")
		sender, err := strconv.Atoi(size)
		if err != nil || sender < 0 || sender > len(text) {
			return f, false
		}
		f.id = text[sender:]
	}
	return f, true
}

// entry makes an entry of an item of the list and what is known of it.
func entry(at store.Offset, item, known string, shared bool) store.Entry {
	f, ok := parseFacts(known)
	if !ok {
		f = facts{} // evicted or damaged: what is left is as if a Node server had pushed it
	}
	e := store.Entry{Offset: at, ID: f.id, At: time.UnixMilli(f.at).UTC(), Peer: f.peer, Origin: f.origin}
	if f.wrote > 0 {
		tail := `,"id":` + quote(f.id) + `,"seq":` + strconv.FormatUint(f.wrote, 10) + `,"at":` + strconv.FormatInt(f.at, 10) + `}`
		if head, ok := strings.CutSuffix(item, tail); ok {
			e.Data = append(make([]byte, 0, len(head)+1), head...)
			e.Data = append(e.Data, '}')
			return e
		}
	}
	e.Data = []byte(item)
	if e.ID == "" {
		// Anybody may push anything: what is given to clients has an id of its own, and is a JSON object.
		e.ID = at.String()
		if e.Data = bytes.TrimSpace(e.Data); shared && (len(e.Data) == 0 || e.Data[0] != '{' || !json.Valid(e.Data)) {
			e.Data = []byte("{}")
		}
	}
	return e
}
