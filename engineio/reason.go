package engineio

// Reason says why a connection ended. The texts are the protocol's, which Socket.IO shows to applications; the
// set is fixed, so a Reason can label a metric.
type Reason string

// Why connections end (section 9 of the Engine.IO contract).
const (
	TransportClose     Reason = "transport close"     // the client closed it, or went away
	TransportError     Reason = "transport error"     // the client broke the rules of HTTP, WebSocket or polling
	PingTimeout        Reason = "ping timeout"        // no pong came in time
	ParseError         Reason = "parse error"         // the client sent what is no packet
	ForcedClose        Reason = "forced close"        // the layer above closed it, or panicked
	ForcedServerClose  Reason = "forced server close" // the layer above closed it for another of its reasons
	ServerShuttingDown Reason = "server shutting down"
	SlowClient         Reason = "slow client" // the client didn't read, and its outbox reached its bound
)
