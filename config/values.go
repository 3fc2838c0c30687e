package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	redisstore "parley/store/redis"
)

// The functions here make the set functions of the table: each turns a text into a field, or says why it
// can't and what would do.

// whole takes whole numbers from low to high.
func whole(low, high int, field func(*Config) *int) func(*Config, string) error {
	return func(c *Config, text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrSyntax):
			return fmt.Errorf("it is not a whole number: use one from %d to %d", low, high)
		case err != nil || n > int64(high):
			return fmt.Errorf("it is too large: use a whole number from %d to %d", low, high)
		case n < int64(low):
			return fmt.Errorf("it is too small: use a whole number from %d to %d", low, high)
		}
		*field(c) = int(n)
		return nil
	}
}

// duration takes times like 25s and 1h30m, from low to high.
func duration(low, high time.Duration, field func(*Config) *time.Duration) func(*Config, string) error {
	return func(c *Config, text string) error {
		d, err := time.ParseDuration(text)
		_, number := strconv.ParseFloat(text, 64)
		switch {
		case err != nil && number == nil:
			return fmt.Errorf("it has no unit: write %ss for seconds, or use ms, m or h", text)
		case err != nil:
			return errors.New("it is not a time: write a number and a unit, like 500ms, 25s, 2m or 24h")
		case d < low:
			return fmt.Errorf("it is too short: use %s to %s", short(low), short(high))
		case d > high:
			return fmt.Errorf("it is too long: use %s to %s", short(low), short(high))
		}
		*field(c) = d
		return nil
	}
}

// short writes a duration without its zero parts: 24h instead of 24h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// boolean takes true and false.
func boolean(field func(*Config) *bool) func(*Config, string) error {
	return func(c *Config, text string) error {
		b, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return errors.New("it is neither true nor false: use one of them")
		}
		*field(c) = b
		return nil
	}
}

// oneOf takes one of a few words, in any case.
func oneOf(field func(*Config) *string, words ...string) func(*Config, string) error {
	return func(c *Config, text string) error {
		for _, w := range words {
			if strings.EqualFold(w, text) {
				*field(c) = w
				return nil
			}
		}
		return fmt.Errorf("it is unknown: use %s or %s", strings.Join(words[:len(words)-1], ", "), words[len(words)-1])
	}
}

// logLevel takes the names of zerolog's levels.
func logLevel(c *Config, text string) error {
	for _, l := range []zerolog.Level{zerolog.TraceLevel, zerolog.DebugLevel, zerolog.InfoLevel, zerolog.WarnLevel, zerolog.ErrorLevel} {
		if strings.EqualFold(l.String(), text) {
			c.LogLevel = l
			return nil
		}
	}
	return errors.New("it is unknown: use trace, debug, info, warn or error")
}

// line takes any text without control characters.
func line(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if strings.ContainsFunc(text, unicode.IsControl) {
			return errors.New("it has control characters: use plain text on one line")
		}
		*field(c) = text
		return nil
	}
}

// path takes what can be the name of a directory.
func path(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if strings.ContainsRune(text, 0) {
			return errors.New("it has a NUL character: use the path of a directory")
		}
		*field(c) = text
		return nil
	}
}

// directory takes a directory that is there, or none.
func directory(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" {
			return nil
		}
		if info, err := os.Stat(text); err != nil || !info.IsDir() {
			return errors.New("it is no directory: name one that exists, or leave it out")
		}
		*field(c) = text
		return nil
	}
}

// list takes texts separated by commas.
func list(field func(*Config) *[]string) func(*Config, string) error {
	return func(c *Config, text string) error {
		var entries []string
		for entry := range strings.SplitSeq(text, ",") {
			if entry = strings.TrimSpace(entry); entry != "" {
				entries = append(entries, entry)
			}
		}
		*field(c) = entries
		return nil
	}
}

// secret takes a text of at least low bytes, or none. Its errors say nothing of the text but its length.
func secret(low int, field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text != "" && len(text) < low {
			return fmt.Errorf("it has %d bytes, and so few can be guessed: use at least %d random ones", len(text), low)
		}
		*field(c) = text
		return nil
	}
}

// httpURL takes the address of something to fetch, or none. The address may hold a password, so errors do
// not quote it.
func httpURL(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" {
			return nil
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" {
			return errors.New("it is not a web address: use one like https://issuer.example/.well-known/jwks.json")
		}
		*field(c) = text
		return nil
	}
}

// origin takes scheme, host and port of a web server, or none.
func origin(field func(*Config) *string) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" {
			return nil
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" ||
			u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("it is not scheme, host and port: use one like http://10.0.0.5:3000")
		}
		*field(c) = u.Scheme + "://" + u.Host
		return nil
	}
}

// redisURL takes the address of a Redis, or none. Its errors quote nothing: the address may hold a password.
func redisURL(c *Config, text string) error {
	if text == "" {
		return nil
	}
	if _, err := redisstore.Parse(text); err != nil {
		return err
	}
	c.RedisURL = text
	return nil
}

// optional leaves a setting that is not given alone.
func optional(set func(*Config, string) error) func(*Config, string) error {
	return func(c *Config, text string) error {
		if text == "" {
			return nil
		}
		return set(c, text)
	}
}

// allInterfaces stands for a HOST that was given and means every interface, until complete has run.
const allInterfaces = "*"

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9.])?$`)

// host takes an IP address or a host name.
func host(c *Config, text string) error {
	if text == "" {
		return nil
	}
	bare := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		bare = text[1 : len(text)-1] // an IPv6 address as in a URL
	}
	if ip, err := netip.ParseAddr(bare); err == nil {
		if c.Host = bare; ip == netip.IPv6Unspecified() {
			c.Host = allInterfaces // IPv4 too
		}
		return nil
	}
	if _, _, err := net.SplitHostPort(text); err == nil {
		return errors.New("it has a port: leave that to PORT")
	}
	if !hostName.MatchString(text) {
		return errors.New("it is neither an IP address nor a host name: use one like 127.0.0.1, or 0.0.0.0 for all interfaces")
	}
	c.Host = text
	return nil
}
