package redisstore

import (
	"encoding/json"
	"fmt"
	"testing"

	"parley/store"
)

// FuzzEntry checks that whatever the keys hold becomes an entry that clients can be given.
func FuzzEntry(f *testing.F) {
	f.Add(`{"content":1,"from":"a","to":"b","id":"x","seq":7,"at":5}`, "5 7 4 1 1:axb")
	f.Add("", "1 0 0 0 ")
	f.Add("{", "99999999999999999999 1 1 1 x")
	f.Add("[]", "1 1 9223372036854775807 9223372036854775807 x")
	f.Fuzz(func(t *testing.T, item, known string) {
		e := entry(store.Offset{Epoch: 1, Seq: 1}, item, known, true)
		if parsed, ok := parseFacts(known); e.ID == "" || !json.Valid(e.Data) && (!ok || parsed.id == "") {
			t.Errorf("%q, %q became %+v", item, known, e)
		}
	})
}

// FuzzItem checks that data comes back as it went.
func FuzzItem(f *testing.F) {
	for _, data := range []string{"", "{", "}", "{}", `{"a":1}`, `{"a":1,}`, `{"}`, `"text"`, "{\"\xff\"}"} {
		f.Add([]byte(data), "id", true)
	}
	f.Fuzz(func(t *testing.T, data []byte, id string, shared bool) {
		if store.CheckID("id", id) != nil {
			return
		}
		item, whole := itemHead(data, id, shared)
		key, wrote := messageKey("me", id), 0
		if !whole {
			item, wrote = item+`12,"at":34}`, 12
		}
		known := fmt.Sprintf("34 %d %d 4 %speerorigin", wrote, len(key), key)
		e := entry(store.Offset{Epoch: 1, Seq: 12}, item, known, shared)
		if string(e.Data) != string(data) || e.ID != id || e.Peer != "peer" || e.Origin != "origin" || e.At.UnixMilli() != 34 {
			t.Errorf("%q of %q became %q: %+v", data, id, item, e)
		}
	})
}
