package metrics

// fanout/redis
const (
	BusRejected   Name = "bus_rejected"   // reason: which rule another server's message broke
	BusRefused    Name = "bus_refused"    // reason: which rule an event of ours broke
	BusDropped    Name = "bus_dropped"    // reason: the queue or bound that it did not fit into
	BusReconnects Name = "bus_reconnects" // reason: "lost", "restored"
	BusPanics     Name = "bus_panics"     // reason: what was being handled
)
