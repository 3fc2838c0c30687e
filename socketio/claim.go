package socketio

import (
	"context"
	"encoding/json"

	"parley/socketio/packet"
)

// claimed reads a CONNECT payload: the private id, or "" if there is none, and the offset, or "" if there is none. usable is
// false for one that no client was given.
func claimed(auth json.RawMessage) (pid, offset string, usable bool) {
	usable = true
	for key, value := range packet.Members(auth) {
		switch string(key) {
		case `"pid"`:
			pid, _ = packet.PlainString(value)
		case `"offset"`:
			if offset = ""; string(value) != "null" {
				offset, _ = packet.PlainString(value)
				usable = offset != ""
			}
		}
	}
	return pid, offset, usable
}

// claimant is whose client a socket is, as far as that is known before it is admitted.
type claimant struct {
	user  string
	known bool
}

// mayBe tells whether the client may be that of user.
func (c claimant) mayBe(user string) bool { return !c.known || c.user == user }

// claimant asks the application.
func (s *Socket) claimant(ctx context.Context) (c claimant, err error) {
	claim := s.namespace.app.recovery.Claim
	if claim == nil {
		return claimant{}, nil
	}
	err = errPanicked
	s.contain("connection", "", func() { c.user, err = claim(ctx, s) })
	c.known = true
	return c, err
}
