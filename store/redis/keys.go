package redisstore

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"parley/store"
)

// What is kept where. The first three are the contract's (contracts.md A6), with what Parley adds:
//
//	session:<id>                          hash     userID, username, connected; seen (ms), turn (when connected was set)
//	messages:<user>                       list     the chat's messages: JSON, with id, seq and at as last members
//	{messages:<user>}:info                hash     the mailbox (epoch, first, last, seen, mark, placed, begin; they may lag
//	                                               behind the list), "#number" what is known of an entry, "=sender and id"
//	                                               its number, "@peer" how far a conversation has come: read (number),
//	                                               received and seen (ms)
//	{messages:<user>}:places              zset     "peer, number", in this order: conversations; those that the user
//	                                               has sent another time, behind ">"
//	{messages:<user>}:peers               zset     peers by the number of their newest entry
//	parley:{<app>:<user>}:list, :info ... likewise for other applications; the list has the data as it is
//	{parley:users}:info                   hash     by id: last seen, name, session seen last
//	{parley:users}:seen, :ids, :names     zset     users by last seen (ms), by id, by folded name
//	parley:presence:<user>                hash     the nodes that have sockets of the user (presence.lua)
//	parley:node:<node>                    set      the users of whom a node has sockets
//	{parley:nodes}, :gen, :dead           zset, …  the nodes by the end of their lease (lease.lua)
//	parley:recovery:<SHA-256 of the pid>  string   a recovery (recovery.lua); the hash keeps the secret out of SLOWLOG and the like
//	parley:probe:0 to 15                   string   whether all keys are on one server (probe.lua)
//	parley:reconcile                      string   who compares the roster with the sessions
//
// The keys of a mailbox are in one slot: a key that has no braces is hashed whole, and one that has, by what is between
// them. A user whose id has braces has the chat's mailbox under parley:{chat:<user>}, where Node servers do not look. In
// app and user, "%", ":", "{" and "}" are written as a percent sign and two digits.
const (
	keyProbe     = "parley:probe"
	keyReconcile = "parley:reconcile"

	prefixSession  = "session:"
	prefixPresence = "parley:presence:"
	prefixNode     = "parley:node:"
)

var (
	rosterKeys = []string{"{parley:users}:info", "{parley:users}:seen", "{parley:users}:ids", "{parley:users}:names"}
	leaseKeys  = []string{"{parley:nodes}", "{parley:nodes}:gen", "{parley:nodes}:dead"}
)

// Indexes of rosterKeys.
const (
	rosterInfo = iota
	rosterSeen
	rosterIDs
	rosterNames
)

// chatApp is the application whose mailboxes the contract names.
const chatApp = "chat"

// mailboxKeys returns the list and info of a mailbox; shared means that Node servers use it too.
func mailboxKeys(b store.Box) (list, info string, shared bool) {
	const end = "}:info"
	if b.App == chatApp && !strings.ContainsAny(b.User, "{}") {
		info = "{messages:" + b.User + end
		return info[1 : len(info)-len(end)], info, true
	}
	base := "parley:{" + escape(b.App) + ":" + escape(b.User)
	return base + "}:list", base + end, b.App == chatApp
}

var escaper = strings.NewReplacer("%", "%25", ":", "%3A", "{", "%7B", "}", "%7D")

func escape(s string) string { return escaper.Replace(s) }

func recoveryKey(pid string) string {
	sum := sha256.Sum256([]byte(pid))
	return "parley:recovery:" + hex.EncodeToString(sum[:])
}

// messageKey tells the messages of all senders apart. mailbox.lua writes the same.
func messageKey(sender, id string) string { return strconv.Itoa(len(sender)) + ":" + sender + id }
