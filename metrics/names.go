package metrics

// The counters, by the package that counts them.
const (
	// engineio
	HandshakesRefused Name = "handshakes_refused" // reason: the protocol's message
	ConnectionsClosed Name = "connections_closed" // reason: engineio.Reason
	VolatileDropped   Name = "volatile_dropped"   // reason: "slow"
	InputRejected     Name = "input_rejected"     // reason: which rule the input broke

	// shard
	ShardPanics  Name = "shard_panics"  // reason: "turn", "burial"
	InboxRefused Name = "inbox_refused" // reason: "full"
	MailGaps     Name = "mail_gaps"     // reason: "read", "found by a check", "expired", "lost by the store"

	// socketio
	PacketsRejected Name = "packets_rejected" // reason: which rule the packet broke
	HandlerPanics   Name = "handler_panics"   // reason: "event", "connection", "disconnect", "mail", "server side"
	ConnectsRefused Name = "connects_refused" // reason: "middleware", "invalid namespace", …
	Recoveries      Name = "recoveries"       // reason: "recovered", or why not
	Limited         Name = "limited"          // reason: the limit that was reached

	// handlers
	EventsRefused Name = "events_refused" // reason: the error's code
)

// names holds each counter's help text.
var names = map[Name]string{
	HandshakesRefused: "Engine.IO requests refused before a connection existed.",
	ConnectionsClosed: "Engine.IO connections that ended.",
	VolatileDropped:   "Volatile packets dropped because a client was not ready for them.",
	InputRejected:     "Engine.IO input that broke the protocol.",
	ShardPanics:       "Panics of a shard's loop.",
	InboxRefused:      "Commands that a shard's inbox did not take.",
	MailGaps:          "Gaps in a mailbox's numbers that were read from the store, and messages of others' processes whose sender had to be introduced first.",
	PacketsRejected:   "Socket.IO packets that broke the protocol.",
	HandlerPanics:     "Panics of application handlers.",
	ConnectsRefused:   "Namespace connects that were refused.",
	Recoveries:        "Recovery attempts by outcome.",
	Limited:           "Requests refused by a configured limit.",
	EventsRefused:     "Application events answered with an error.",
	BusRejected:       "Messages of other servers that were ignored because they are malformed or not for us.",
	BusRefused:        "Events that were kept from other servers because their clients would fail on them.",
	BusDropped:        "Messages between servers that were dropped.",
	BusReconnects:     "Subscriber connections to Redis lost and restored.",
	BusPanics:         "Panics while a message of another server was handled.",
	RelayForwarded:    "Requests of another process' connections that were forwarded to it.",
	RelayFailed:       "Requests of another process' connections that were not answered by it.",
}
