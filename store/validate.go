package store

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds on what is stored. Data is not among them: whoever takes it from a client bounds it.
const (
	// MaxIDBytes bounds every id and name.
	MaxIDBytes = 1024
	// MaxDeliveries bounds the mailboxes of one post.
	MaxDeliveries = 1024
	// MaxRooms bounds the rooms of one recovery.
	MaxRooms = 65536
)

// CheckID returns [ErrInvalid], wrapped with what the id is of, unless id has 1 to [MaxIDBytes] bytes.
func CheckID(what, id string) error {
	if id == "" {
		return fmt.Errorf("%s is empty: %w", what, ErrInvalid)
	}
	return checkText(what, id)
}

// checkText is for what may be empty.
func checkText(what, text string) error {
	if len(text) > MaxIDBytes {
		return fmt.Errorf("%s has %d bytes, more than %d: %w", what, len(text), MaxIDBytes, ErrInvalid)
	}
	return nil
}

// firstError returns the first error there is.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Validate returns [ErrInvalid], wrapped with the reason, if b cannot name a mailbox.
func (b Box) Validate() error {
	return firstError(CheckID("mailbox application", b.App), CheckID("mailbox user", b.User))
}

// Validate returns [ErrInvalid], wrapped with the reason, if p cannot be stored.
func (p *Post) Validate() error {
	if err := firstError(CheckID("message id", p.ID), CheckID("sender", p.Sender), checkText("origin", p.Origin)); err != nil {
		return err
	}
	if len(p.To) == 0 || len(p.To) > MaxDeliveries {
		return fmt.Errorf("post to %d mailboxes, not 1 to %d: %w", len(p.To), MaxDeliveries, ErrInvalid)
	}
	for _, to := range p.To {
		if err := firstError(to.Box.Validate(), checkText("peer", to.Peer)); err != nil {
			return err
		}
	}
	return nil
}

// Validate returns [ErrInvalid], wrapped with the reason, if s cannot be stored.
func (s *Session) Validate() error {
	return firstError(CheckID("session id", s.ID), CheckID("user id", s.UserID), checkText("username", s.Username))
}

// Validate returns [ErrInvalid], wrapped with the reason, if r cannot be stored. Only PID must be set.
func (r *Recovery) Validate() error {
	if err := firstError(CheckID("pid", r.PID), checkText("socket id", r.SID), checkText("namespace", r.Namespace),
		checkText("user", r.User), checkText("mailbox application", r.Box.App), checkText("mailbox user", r.Box.User)); err != nil {
		return err
	}
	if len(r.Rooms) > MaxRooms {
		return fmt.Errorf("recovery with %d rooms, more than %d: %w", len(r.Rooms), MaxRooms, ErrInvalid)
	}
	for _, room := range r.Rooms {
		if err := checkText("room", room); err != nil {
			return err
		}
	}
	return nil
}

// Fold returns name with the differences of case removed, rune by rune, for comparing and ordering names. Bytes that
// are not UTF-8 become U+FFFD.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}
		// The runes that differ in case alone form a ring: take the lower case of the smallest, so that the letters
		// of ASCII stand for their ring too.
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		if 'A' <= least && least <= 'Z' {
			least += 'a' - 'A'
		}
		return least
	}, name)
}
