package metrics

// relay
const (
	RelayForwarded Name = "relay_forwarded" // reason: the method, or "upgrade"
	RelayFailed    Name = "relay_failed"    // reason: why a request did not get its answer from the process that it is for
)
