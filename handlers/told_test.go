package handlers

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func say(d *told, user string, online bool) {
	_ = d.say(user, online, func() error { return nil })
}

// TestTold checks when what sockets were given makes a user doubtful.
func TestTold(t *testing.T) {
	given := func(user string, online bool) []rosterEntry { return []rosterEntry{{UserID: user, Connected: online}} }
	for _, v := range []struct {
		name string
		do   func(*told)
		now  bool   // what the store says in the end
		want string // of the only user, "" for no doubt
	}{
		{"nothing was ever said", func(*told) {}, true, "u true 0"},
		{"said", func(d *told) { say(d, "u", true) }, true, ""},
		{"said, and lost since", func(d *told) { say(d, "u", true) }, false, "u false 1"},
		{"given", func(d *told) { d.gave(given("u", true), d.now(), true, true) }, true, ""},
		{"given to one, while others were to be told", func(d *told) { d.gave(given("u", true), d.now(), true, false) }, true, "u true 1"},
		{"given to one, and then said to all", func(d *told) {
			d.gave(given("u", true), d.now(), true, false)
			say(d, "u", true)
		}, true, ""},
		{"given, and lost since", func(d *told) { d.gave(given("u", true), d.now(), true, true) }, false, "u false 1"},
		{"one was given something else, and it is as it was again", func(d *told) {
			say(d, "u", false)
			d.gave(given("u", true), d.now(), true, true)
		}, false, "u false 1"},
		{"what was said since covers it", func(d *told) {
			say(d, "u", false)
			d.gave(given("u", true), d.now(), true, true)
			say(d, "u", false)
		}, false, ""},
		{"said, but the sockets did not get it", func(d *told) {
			_ = d.say("u", true, func() error { return errors.New("no room") })
		}, true, "u true 1"},
		{"a list was read before a word that its reader heard after it", func(d *told) {
			since := d.now()
			say(d, "u", true)
			d.gave(given("u", false), since, true, true)
		}, true, ""},
		{"a list was read before a word that its reader may have heard before it", func(d *told) {
			since := d.now()
			say(d, "u", true)
			d.gave(given("u", false), since, false, true)
		}, true, "u true 1"},
	} {
		d := newTold(10)
		v.do(d)
		var found string
		for _, doubt := range d.doubts([]string{"u"}, []bool{v.now}) {
			found = fmt.Sprint(doubt.user, " ", doubt.online, " ", doubt.at)
		}
		if found != v.want {
			t.Errorf("%s: in doubt is %q, not %q", v.name, found, v.want)
		}
	}
}

// TestToldIsBounded checks that users are forgotten when there are too many.
func TestToldIsBounded(t *testing.T) {
	d := newTold(2)
	forget := func(user string, _ bool) bool { return user == "x" || user == "y" }
	for _, user := range []string{"a", "x"} {
		say(d, user, false)
	}
	if got := d.list(forget); len(got) != 2 {
		t.Errorf("within the limit there is %q", got)
	}
	for _, user := range []string{"b", "c", "y"} {
		say(d, user, false)
	}
	if got := slices.Sorted(slices.Values(d.list(forget))); fmt.Sprint(got) != "[a b c]" {
		t.Errorf("there is %q", got)
	}
	var alone *told
	alone.gave([]rosterEntry{{UserID: "u"}}, alone.now(), true, true)
	said := 0
	for range 2 {
		if err := alone.say("u", true, func() error { said++; return nil }); err != nil {
			t.Error(err)
		}
	}
	if said != 2 {
		t.Error("a process that is alone does not say everything")
	}
}
