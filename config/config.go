// Package config reads Parley's settings from the environment and the command line, and refuses what can't
// be used with one sentence that says which setting, why, and what would do.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/peterbourgon/ff/v3"
	"github.com/rs/zerolog"

	"parley/auth"
	"parley/shard"
)

// Config is every setting of one process, checked and complete. Help lists what each means.
type Config struct {
	// Where it listens.
	Host string // "" is all interfaces
	Port int    // 0 is any free one

	// What it runs on.
	Shards  int
	Store   string // StoreMemory, StoreFile or StoreRedis
	DataDir string

	// How it works with other processes, if RedisURL is set.
	RedisURL     string
	RedisWait    time.Duration
	AdvertiseURL string // scheme, host and port; "" for where it listens
	Fanout       string // FanoutClassic or FanoutSharded
	NotifyBus    string // NotifyBusOff or NotifyBusClassic

	ClientDist string // "" for the official CDN

	// Who may come in.
	CORSOrigins           []string // each an origin or "*"
	JWTSecret, JWTJWKSURL string   // one of them at most; neither is open mode
	JWTIssuer             string   // "" for any
	JWTAudience           string   // "" for any
	APIKey                string   // "" for none

	// Connections.
	PingInterval      time.Duration
	PingTimeout       time.Duration
	ConnectTimeout    time.Duration
	AllowUpgrades     bool
	PerMessageDeflate bool

	// What is kept.
	SessionTTL   time.Duration
	MessageTTL   time.Duration
	RecoveryTTL  time.Duration
	MailboxLimit int
	RosterLimit  int
	HistoryLimit int

	// Limits; the unit of what a client may use.
	MaxPayload            int // bytes
	MaxMessage            int // bytes
	MaxAttachments        int // per packet
	MaxNamespaces         int // per connection
	MaxRooms              int // per socket
	MaxPendingAcks        int // per socket
	OutboundBytes         int // per connection
	OutboundMessages      int // per connection
	ConnectionsPerAddress int // 0 is no limit
	RateLimit             int // events per second and connection; 0 is no limit

	// Running it.
	LogLevel     zerolog.Level
	LogFormat    string // LogAuto, LogText or LogJSON
	DrainTimeout time.Duration
}

// Values of Config.Store.
const (
	StoreMemory = "memory"
	StoreFile   = "file"
	StoreRedis  = "redis"
)

// Values of Config.Fanout and Config.NotifyBus.
const (
	FanoutClassic    = "classic"
	FanoutSharded    = "sharded"
	NotifyBusOff     = "off"
	NotifyBusClassic = "classic"
)

// Values of Config.LogFormat; LogAuto is text on a terminal and JSON otherwise.
const (
	LogAuto = "auto"
	LogText = "text"
	LogJSON = "json"
)

// Open tells whether anybody may come in under any name, because no key to verify tokens with is set.
func (c *Config) Open() bool { return c.JWTSecret == "" && c.JWTJWKSURL == "" }

// Addr is the address to listen on, in the form that net.Listen takes.
func (c *Config) Addr() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// Parse reads the settings from args (the command line without the program's name) and, for what args leave
// out, from the environment. An empty variable counts as unset. For -h and --help it returns flag.ErrHelp,
// and the caller prints Help. No error holds the value of a secret.
func Parse(args []string) (*Config, error) {
	flags := flag.NewFlagSet("parley", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the errors below say it better
	values := make([]*value, len(settings))
	for i, s := range settings {
		values[i] = &value{text: s.fallback, isSwitch: s.isSwitch}
		flags.Var(values[i], s.flag(), s.help)
	}
	if err := ff.Parse(flags, args, ff.WithEnvVars()); err != nil {
		return nil, commandLine(err)
	}
	if flags.NArg() > 0 {
		return nil, errors.New("the command line has words that belong to no flag: settings are written --port 3000 or --port=3000; --help lists them")
	}

	c := &Config{}
	for i, s := range settings {
		text := values[i].text
		if !s.secret { // a secret is taken as it is
			text = strings.TrimSpace(text)
		}
		if text == "" {
			text = s.fallback
		}
		if err := s.set(c, text); err != nil {
			if s.secret {
				return nil, fmt.Errorf("%s can't be used: %w", s.env, err)
			}
			return nil, fmt.Errorf("%s is %q: %w", s.env, text, err)
		}
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	return c, nil
}

// complete checks what concerns more than one setting, and fills in what depends on others.
func (c *Config) complete() error {
	switch {
	case c.JWTSecret != "" && c.JWTJWKSURL != "":
		return errors.New("JWT_SECRET and JWT_JWKS_URL are both set: unset the one that your tokens are not signed with")
	case c.Open() && c.JWTIssuer != "":
		return errors.New("JWT_ISSUER is set, but tokens are not verified at all: set JWT_SECRET or JWT_JWKS_URL too, or unset it")
	case c.Open() && c.JWTAudience != "":
		return errors.New("JWT_AUDIENCE is set, but tokens are not verified at all: set JWT_SECRET or JWT_JWKS_URL too, or unset it")
	}
	if c.AdvertiseURL != "" && c.RedisURL == "" {
		return errors.New("ADVERTISE_URL is set, but there are no other processes to read it: set REDIS_URL too, or unset it")
	}
	switch {
	case c.Store == "" && c.RedisURL != "":
		c.Store = StoreRedis
	case c.Store == "":
		c.Store = StoreFile
	case c.Store == StoreRedis && c.RedisURL == "":
		return errors.New("STORE is redis, but REDIS_URL does not say which one: set it")
	case c.Store != StoreRedis && c.RedisURL != "":
		return fmt.Errorf("STORE is %s, but processes that REDIS_URL connects share what they keep: unset STORE, or REDIS_URL for a single process", c.Store)
	}
	if c.Host == "" && c.Open() {
		c.Host = "127.0.0.1" // where anybody may claim any name, only this machine may try
	}
	if c.Host == allInterfaces {
		c.Host = ""
	}
	if c.Shards == 0 {
		c.Shards = min(runtime.GOMAXPROCS(0), shard.MaxShards)
	}
	if _, err := auth.NewOrigins(c.CORSOrigins, c.Open()); err != nil {
		return fmt.Errorf("CORS_ORIGINS can't be used: %w", err)
	}
	return nil
}

// commandLine words what package flag says about the command line; its own texts may quote values.
func commandLine(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return flag.ErrHelp
	}
	inner := errors.Unwrap(err)
	if inner == nil {
		inner = err
	}
	text := inner.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return fmt.Errorf("there is no setting --%s: --help lists them all", name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return fmt.Errorf("--%s needs a value: write it behind the flag, like --%s=…", name, name)
	}
	return errors.New("the command line can't be read: settings are written --port 3000 or --port=3000; --help lists them")
}

// value is a flag.Value that takes anything; the setting judges it later, so that secrets never reach the
// texts of package flag.
type value struct {
	text     string
	isSwitch bool
}

func (v *value) String() string { return v.text }

func (v *value) Set(s string) error {
	v.text = s
	return nil
}

// IsBoolFlag lets a switch be given without a value.
func (v *value) IsBoolFlag() bool { return v.isSwitch }
