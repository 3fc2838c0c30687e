package config_test

import (
	"errors"
	"flag"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"parley/config"
)

const (
	secret = "hunter2-hunter2-hunter2-hunter2-hunter2"
	jwks   = "https://user:hunter2@issuer.example/keys"
)

// names are the settings by their environment names, as the help lists them.
func names(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^  --[a-z-]+ +([A-Z_]+) `).FindAllStringSubmatch(config.Help(), -1) {
		names = append(names, m[1])
	}
	if len(names) < 30 {
		t.Fatalf("the help lists only %v", names)
	}
	return names
}

// parse reads args with no setting in the environment but env.
func parse(t *testing.T, env map[string]string, args ...string) (*config.Config, error) {
	t.Helper()
	for _, name := range names(t) {
		t.Setenv(name, env[name]) // "" counts as unset
	}
	return config.Parse(args)
}

func TestDefaults(t *testing.T) {
	got, err := parse(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Config{
		Host: "127.0.0.1", Port: 3000,
		Shards: runtime.GOMAXPROCS(0), Store: config.StoreFile, DataDir: "./data",
		RedisWait: 30 * time.Second, Fanout: config.FanoutClassic, NotifyBus: config.NotifyBusOff,
		PingInterval: 25 * time.Second, PingTimeout: 20 * time.Second, ConnectTimeout: 45 * time.Second,
		AllowUpgrades: true,
		SessionTTL:    24 * time.Hour, MessageTTL: 24 * time.Hour, RecoveryTTL: 2 * time.Minute,
		MailboxLimit: 10000, RosterLimit: 1000, HistoryLimit: 50,
		MaxPayload: 1000000, MaxMessage: 65536, MaxAttachments: 10, MaxNamespaces: 16, MaxRooms: 256, MaxPendingAcks: 1000,
		OutboundBytes: 4 << 20, OutboundMessages: 16384, ConnectionsPerAddress: 1000, RateLimit: 10000,
		LogLevel: zerolog.InfoLevel, LogFormat: config.LogAuto, DrainTimeout: 10 * time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !got.Open() || got.Addr() != "127.0.0.1:3000" {
		t.Errorf("open %v at %s", got.Open(), got.Addr())
	}
}

func TestHost(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"open":                  {nil, "127.0.0.1:3000"},
		"with a secret":         {map[string]string{"JWT_SECRET": secret}, ":3000"},
		"with keys":             {map[string]string{"JWT_JWKS_URL": jwks}, ":3000"},
		"open, all by IPv4":     {map[string]string{"HOST": "0.0.0.0"}, "0.0.0.0:3000"},
		"open, all":             {map[string]string{"HOST": "::"}, ":3000"},
		"secret, this machine":  {map[string]string{"HOST": "localhost", "JWT_SECRET": secret}, "localhost:3000"},
		"IPv6":                  {map[string]string{"HOST": "::1"}, "[::1]:3000"},
		"IPv6 as in an address": {map[string]string{"HOST": "[::1]", "PORT": "0"}, "[::1]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(t, c.env)
			if err != nil {
				t.Fatal(err)
			}
			if got.Addr() != c.want {
				t.Errorf("listens on %q, want %q", got.Addr(), c.want)
			}
		})
	}
}

func TestEnvironmentAndFlags(t *testing.T) {
	got, err := parse(t, map[string]string{
		"PORT": " 4000 ", "PING_INTERVAL": "1m30s", "STORE": "Memory", "LOG_LEVEL": "DEBUG", "DRAIN_TIMEOUT": "0",
		"CORS_ORIGINS": "https://a.example, http://localhost:8080,", "JWT_SECRET": secret + " ",
	}, "--port", "5000", "--per-message-deflate", "--allow-upgrades=false", "-jwt-issuer=https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	if got.Port != 5000 {
		t.Errorf("the flag does not beat the environment: port %d", got.Port)
	}
	if got.PingInterval != 90*time.Second || got.Store != config.StoreMemory || got.LogLevel != zerolog.DebugLevel || got.DrainTimeout != 0 {
		t.Errorf("the environment is not read: %+v", got)
	}
	if want := []string{"https://a.example", "http://localhost:8080"}; !reflect.DeepEqual(got.CORSOrigins, want) {
		t.Errorf("origins %q, want %q", got.CORSOrigins, want)
	}
	if !got.PerMessageDeflate || got.AllowUpgrades {
		t.Errorf("switches: deflate %v, upgrades %v", got.PerMessageDeflate, got.AllowUpgrades)
	}
	if got.Open() || got.JWTSecret != secret+" " || got.JWTIssuer != "https://issuer.example" {
		t.Error("the JWT settings are not read as given")
	}
}

func TestAdvertiseURL(t *testing.T) {
	got, err := parse(t, map[string]string{"REDIS_URL": "redis://localhost", "ADVERTISE_URL": "http://parley-1:3000/"})
	if err != nil {
		t.Fatal(err)
	}
	if got.AdvertiseURL != "http://parley-1:3000" {
		t.Errorf("others reach it by %q", got.AdvertiseURL)
	}
}

func TestEmptyFlagUnsetsTheEnvironment(t *testing.T) {
	if _, err := parse(t, map[string]string{"REDIS_URL": "redis://localhost"}, "--redis-url="); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		env, value string
		want       string // what the sentence says besides the setting
	}{
		{"HOST", "localhost:3000", "leave that to PORT"},
		{"HOST", "not a host", "use one like 127.0.0.1"},
		{"PORT", "http", "whole number: use one from 0 to 65535"},
		{"PORT", "70000", "too large"},
		{"PORT", "-1", "too small"},
		{"PORT", "3000.5", "whole number"},
		{"PORT", "99999999999999999999", "too large"},
		{"SHARDS", "-1", "0 to 256"},
		{"STORE", "redis", "REDIS_URL"},
		{"STORE", "mysql", "use file, memory or redis"},
		{"REDIS_URL", "http://:hunter2@localhost", "redis://"},
		{"REDIS_WAIT", "30", "write 30s for seconds"},
		{"ADVERTISE_URL", "10.0.0.5:3000", "use one like http://10.0.0.5:3000"},
		{"ADVERTISE_URL", "http://10.0.0.5:3000/parley", "scheme, host and port"},
		{"ADVERTISE_URL", "http://10.0.0.5:3000", "set REDIS_URL too"},
		{"FANOUT", "carrier pigeon", "use classic or sharded"},
		{"NOTIFY_BUS", "on", "use off or classic"},
		{"CORS_ORIGINS", "example.com", "write scheme, host and port"},
		{"CORS_ORIGINS", "https://a.example,https://b.example/", `"https://b.example/"`},
		{"JWT_SECRET", "hunter2", "at least 8"},
		{"JWT_JWKS_URL", "issuer.example/hunter2", "use one like https://"},
		{"JWT_JWKS_URL", "file:///hunter2", "use one like https://"},
		{"JWT_ISSUER", "https://issuer.example", "set JWT_SECRET or JWT_JWKS_URL"},
		{"JWT_AUDIENCE", "parley", "set JWT_SECRET or JWT_JWKS_URL"},
		{"JWT_ISSUER", "a\nb", "control characters"},
		{"API_KEY", "hunter2", "at least 16"},
		{"PING_INTERVAL", "25", "write 25s for seconds"},
		{"PING_INTERVAL", "25 seconds", "a number and a unit"},
		{"PING_INTERVAL", "1ms", "use 10ms to 1h"},
		{"PING_TIMEOUT", "2h", "too long"},
		{"PING_TIMEOUT", "-5s", "too short"},
		{"CONNECT_TIMEOUT", "soon", "a number and a unit"},
		{"ALLOW_UPGRADES", "maybe", "true nor false"},
		{"PER_MESSAGE_DEFLATE", "9", "true nor false"},
		{"SESSION_TTL", "0", "too short"},
		{"MESSAGE_TTL", "86400", "write 86400s"},
		{"RECOVERY_TTL", "25h", "use 1s to 24h"},
		{"MAILBOX_LIMIT", "0", "too small"},
		{"ROSTER_LIMIT", "0", "too small"},
		{"HISTORY_LIMIT", "5000", "too large"},
		{"MAX_PAYLOAD", "1MB", "whole number"},
		{"MAX_PAYLOAD", "10", "too small"},
		{"MAX_ATTACHMENTS", "0", "too small"},
		{"MAX_NAMESPACES", "0", "too small"},
		{"MAX_ROOMS", "0", "too small"},
		{"MAX_PENDING_ACKS", "0", "too small"},
		{"OUTBOUND_BYTES", "0", "too small"},
		{"OUTBOUND_MESSAGES", "0", "too small"},
		{"CONNECTIONS_PER_ADDRESS", "-1", "too small"},
		{"RATE_LIMIT", "none", "whole number"},
		{"MAX_MESSAGE", "0", "too small"},
		{"CLIENT_DIST", "/no/such/place", "name one that exists"},
		{"LOG_LEVEL", "loud", "use trace, debug"},
		{"LOG_FORMAT", "xml", "use auto, text or json"},
		{"DRAIN_TIMEOUT", "10", "write 10s"},
	} {
		t.Run(c.env+"="+c.value, func(t *testing.T) {
			_, err := parse(t, map[string]string{c.env: c.value})
			if err == nil {
				t.Fatal("it was accepted")
			}
			sentence(t, err, c.env, c.want)
		})
	}
	t.Run("a store that processes can't share", func(t *testing.T) {
		_, err := parse(t, map[string]string{"STORE": "file", "REDIS_URL": "redis://localhost"})
		sentence(t, err, "STORE is file", "unset")
	})
	t.Run("both kinds of keys", func(t *testing.T) {
		_, err := parse(t, map[string]string{"JWT_SECRET": secret, "JWT_JWKS_URL": jwks})
		sentence(t, err, "JWT_SECRET and JWT_JWKS_URL", "unset")
	})
}

func TestEverySettingHasARefusalTest(t *testing.T) {
	source, err := os.ReadFile("config_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t) {
		if name != "DATA_DIR" && !strings.Contains(string(source), `{"`+name+`", "`) {
			t.Errorf("no value of %s is tested", name)
		}
	}
}

func TestCommandLineRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown":      {[]string{"--prot=1"}, "no setting --prot"},
		"no value":     {[]string{"--port"}, "--port needs a value"},
		"stray word":   {[]string{"hunter2"}, "belong to no flag"},
		"switch apart": {[]string{"--allow-upgrades", "hunter2"}, "belong to no flag"},
		"three dashes": {[]string{"---hunter2"}, "can't be read"},
		"DATA_DIR":     {[]string{"--data-dir", "a\x00b"}, "NUL"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(t, nil, c.args...)
			sentence(t, err, "", c.want)
		})
	}
}

// sentence checks that err is one line that holds what it must, and no secret.
func sentence(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("there is no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a secret is shown: %v", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"--port=1", "-help"}} {
		if _, err := parse(t, nil, args...); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%v: %v", args, err)
		}
	}
	text := config.Help()
	for _, name := range names(t) {
		if f := "--" + strings.ReplaceAll(strings.ToLower(name), "_", "-") + " "; !strings.Contains(text, f) {
			t.Errorf("the help lacks %s", f)
		}
	}
	for l := range strings.Lines(text) {
		if len(l) > 101 {
			t.Errorf("a line of %d columns: %s", len(l), l)
		}
	}
}

// TestReadme keeps the table in README.md the one that the code makes.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(text), "<!-- settings -->\n")
	table, _, ends := strings.Cut(rest, "<!-- /settings -->")
	if !begins || !ends {
		t.Fatal("README.md has no <!-- settings --> and <!-- /settings --> around its table of settings")
	}
	if strings.TrimSpace(table) != strings.TrimSpace(config.Markdown()) {
		t.Errorf("the table of settings in README.md is not the code's; it should be:\n\n%s", config.Markdown())
	}
}
