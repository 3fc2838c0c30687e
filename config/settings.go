package config

import (
	"math"
	"strings"
	"time"

	"parley/shard"
)

// setting is one line of the table below, from which flags, help and README are made.
type setting struct {
	env      string // name in the environment; the flag is the same in lower case with dashes
	fallback string // the default, as one would write it
	shown    string // the default as the help puts it, where that differs
	help     string
	section  string // set on the first setting of a group
	secret   bool   // never printed
	isSwitch bool
	set      func(c *Config, text string) error // text is not empty unless the fallback is
}

// flag is the setting's name on the command line: PING_INTERVAL is --ping-interval.
func (s *setting) flag() string { return strings.ReplaceAll(strings.ToLower(s.env), "_", "-") }

// preset is the default as people read it.
func (s *setting) preset() string {
	switch {
	case s.shown != "":
		return s.shown
	case s.fallback == "":
		return "none"
	}
	return s.fallback
}

const (
	year = 365 * 24 * time.Hour
	many = math.MaxInt32 // fits an int everywhere
)

// settings holds every setting there is, in the order in which people meet them.
var settings = []setting{
	{section: "Listening", env: "HOST", shown: "127.0.0.1; with JWT_* all interfaces",
		help: "address or name to listen on; 0.0.0.0 or :: for all interfaces",
		set:  host},
	{env: "PORT", fallback: "3000",
		help: "port to listen on; 0 for any free one",
		set:  whole(0, 65535, func(c *Config) *int { return &c.Port })},

	{section: "Running on", env: "SHARDS", fallback: "0", shown: "one per core",
		help: "worker goroutines that share the sockets out among them",
		set:  whole(0, shard.MaxShards, func(c *Config) *int { return &c.Shards })},
	{env: "STORE", shown: "redis with REDIS_URL, else file",
		help: "where sessions and messages live: file keeps them in DATA_DIR, memory forgets them at exit, redis shares them between processes",
		set:  optional(oneOf(func(c *Config) *string { return &c.Store }, StoreFile, StoreMemory, StoreRedis))},
	{env: "DATA_DIR", fallback: "./data",
		help: "directory of the file store; made when missing",
		set:  path(func(c *Config) *string { return &c.DataDir })},
	{env: "REDIS_URL", secret: true,
		help: "makes all processes with the same one a single system: redis://, rediss:// (TLS), several addresses for a Cluster, redis-sentinel://",
		set:  redisURL},
	{env: "REDIS_WAIT", fallback: "30s",
		help: "how long the start waits for Redis",
		set:  duration(0, 24*time.Hour, func(c *Config) *time.Duration { return &c.RedisWait })},
	{env: "ADVERTISE_URL", shown: "the address that it listens on",
		help: "scheme, host and port by which the processes on the same REDIS_URL reach this one; where it listens on all interfaces, the default is the first address of this machine other than loopback",
		set:  origin(func(c *Config) *string { return &c.AdvertiseURL })},
	{env: "FANOUT", fallback: FanoutClassic,
		help: "protocol between processes: classic as @socket.io/redis-adapter speaks it, or sharded (Redis 7) as its sharded adapter does; all must speak the same",
		set:  oneOf(func(c *Config) *string { return &c.Fanout }, FanoutClassic, FanoutSharded)},
	{env: "NOTIFY_BUS", fallback: NotifyBusOff,
		help: "classic publishes notifications for the processes of the older notify application too; what those publish is delivered in any case",
		set:  oneOf(func(c *Config) *string { return &c.NotifyBus }, NotifyBusOff, NotifyBusClassic)},

	{env: "CLIENT_DIST", shown: "the official CDN",
		help: "folder client-dist of the npm package socket.io, from which /socket.io/socket.io.js and its siblings are served",
		set:  directory(func(c *Config) *string { return &c.ClientDist })},

	{section: "Who may come in", env: "CORS_ORIGINS",
		help: "web pages that may connect besides the server's own (and, without JWT_*, those of this machine): origins like https://example.com, separated by commas; * for all",
		set:  list(func(c *Config) *[]string { return &c.CORSOrigins })},
	{env: "JWT_SECRET", secret: true,
		help: "verify tokens signed with HS256 and this secret, which should have 32 bytes or more; without it and JWT_JWKS_URL, anybody may use any name",
		set:  secret(8, func(c *Config) *string { return &c.JWTSecret })},
	{env: "JWT_JWKS_URL", secret: true,
		help: "verify tokens signed with the keys published at this address (RSA, ECDSA, Ed25519); https except inside your own network",
		set:  httpURL(func(c *Config) *string { return &c.JWTJWKSURL })},
	{env: "JWT_ISSUER", shown: "any",
		help: "required issuer of a token (iss)",
		set:  line(func(c *Config) *string { return &c.JWTIssuer })},
	{env: "JWT_AUDIENCE", shown: "any",
		help: "required audience of a token (aud)",
		set:  line(func(c *Config) *string { return &c.JWTAudience })},
	{env: "API_KEY", secret: true,
		help: "key of at least 16 characters that /metrics then asks for, as a bearer token; without it, /metrics is for requests from this machine",
		set:  secret(16, func(c *Config) *string { return &c.APIKey })},

	{section: "Connections", env: "PING_INTERVAL", fallback: "25s",
		help: "time between two heartbeats",
		set:  duration(10*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.PingInterval })},
	{env: "PING_TIMEOUT", fallback: "20s",
		help: "time that a client has to answer a heartbeat",
		set:  duration(10*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.PingTimeout })},
	{env: "CONNECT_TIMEOUT", fallback: "45s",
		help: "time that a connection has to join its first namespace",
		set:  duration(10*time.Millisecond, time.Hour, func(c *Config) *time.Duration { return &c.ConnectTimeout })},
	{env: "ALLOW_UPGRADES", fallback: "true", isSwitch: true,
		help: "let a polling connection change to WebSocket",
		set:  boolean(func(c *Config) *bool { return &c.AllowUpgrades })},
	{env: "PER_MESSAGE_DEFLATE", fallback: "false", isSwitch: true,
		help: "compress WebSocket messages: saves traffic, costs memory and time for each connection",
		set:  boolean(func(c *Config) *bool { return &c.PerMessageDeflate })},

	{section: "What is kept", env: "SESSION_TTL", fallback: "24h",
		help: "a session is forgotten this long after it was last used",
		set:  duration(time.Second, 10*year, func(c *Config) *time.Duration { return &c.SessionTTL })},
	{env: "MESSAGE_TTL", fallback: "24h",
		help: "all messages of a user are forgotten this long after the newest of them",
		set:  duration(time.Second, 10*year, func(c *Config) *time.Duration { return &c.MessageTTL })},
	{env: "RECOVERY_TTL", fallback: "2m",
		help: "a client that was cut off can take up where it was for this long",
		set:  duration(time.Second, 24*time.Hour, func(c *Config) *time.Duration { return &c.RecoveryTTL })},
	{env: "MAILBOX_LIMIT", fallback: "10000",
		help: "messages kept for each user; the oldest go first",
		set:  whole(10, many, func(c *Config) *int { return &c.MailboxLimit })},
	{env: "ROSTER_LIMIT", fallback: "1000",
		help: "users that a client is told about when it connects",
		set:  whole(1, 100_000, func(c *Config) *int { return &c.RosterLimit })},
	{env: "HISTORY_LIMIT", fallback: "50",
		help: "newest messages of each conversation that a client is sent when it connects",
		set:  whole(1, 1000, func(c *Config) *int { return &c.HistoryLimit })},

	{section: "Limits", env: "MAX_PAYLOAD", fallback: "1000000",
		help: "bytes of one message, and of one polling request",
		set:  whole(1000, 1<<30, func(c *Config) *int { return &c.MaxPayload })},
	{env: "MAX_MESSAGE", fallback: "65536",
		help: "bytes of the content of one chat message, as JSON",
		set:  whole(1, 1<<30, func(c *Config) *int { return &c.MaxMessage })},
	{env: "MAX_ATTACHMENTS", fallback: "10",
		help: "binary attachments of one packet",
		set:  whole(1, 1000, func(c *Config) *int { return &c.MaxAttachments })},
	{env: "MAX_NAMESPACES", fallback: "16",
		help: "namespaces that one connection may join",
		set:  whole(1, many, func(c *Config) *int { return &c.MaxNamespaces })},
	{env: "MAX_ROOMS", fallback: "256",
		help: "rooms that one socket may be in",
		set:  whole(1, many, func(c *Config) *int { return &c.MaxRooms })},
	{env: "MAX_PENDING_ACKS", fallback: "1000",
		help: "acknowledgements that the server waits for from one socket",
		set:  whole(1, many, func(c *Config) *int { return &c.MaxPendingAcks })},
	{env: "OUTBOUND_BYTES", fallback: "4194304",
		help: "bytes that may wait for one connection before it is closed as too slow",
		set:  whole(1<<10, 1<<30, func(c *Config) *int { return &c.OutboundBytes })},
	{env: "OUTBOUND_MESSAGES", fallback: "16384",
		help: "messages that may wait for one connection before it is closed as too slow",
		set:  whole(1, many, func(c *Config) *int { return &c.OutboundMessages })},
	{env: "CONNECTIONS_PER_ADDRESS", fallback: "1000",
		help: "connections from one IP address other than this machine's; 0 for no limit, as behind a proxy",
		set:  whole(0, many, func(c *Config) *int { return &c.ConnectionsPerAddress })},
	{env: "RATE_LIMIT", fallback: "10000",
		help: "events per second from one connection; 0 for no limit",
		set:  whole(0, many, func(c *Config) *int { return &c.RateLimit })},

	{section: "Logging and stopping", env: "LOG_LEVEL", fallback: "info",
		help: "trace, debug, info, warn or error",
		set:  logLevel},
	{env: "LOG_FORMAT", fallback: LogAuto,
		help: "text, json, or auto: text on a terminal, JSON otherwise",
		set:  oneOf(func(c *Config) *string { return &c.LogFormat }, LogAuto, LogText, LogJSON)},
	{env: "DRAIN_TIMEOUT", fallback: "10s",
		help: "time over which connections are closed when the process is told to stop; 0 for at once",
		set:  duration(0, time.Hour, func(c *Config) *time.Duration { return &c.DrainTimeout })},
}
