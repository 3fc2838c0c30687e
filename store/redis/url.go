package redisstore

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Timeouts and retries of the client. Together they stay within [pipelineTimeout], so that a caller learns soon that
// Redis is away.
const (
	dialTimeout = 2 * time.Second
	ioTimeout   = 3 * time.Second
	maxRetries  = 3
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = 500 * time.Millisecond // with jitter
)

// Parse reads a Redis URL. These are its forms, where s is there for TLS:
//
//	redis[s]://[[user]:password@]host[:6379][/database]
//	redis[s]://[[user]:password@]host[:6379],host...                             a Cluster
//	redis[s]://[[user]:password@]host[:6379]?cluster=true                        a Cluster, by one address
//	redis[s]-sentinel://[[user]:password@]host[:26379],...[/database]?master=name
//	redis[s]-sentinel://name@host[:26379],...[/database]                         the same without a password
//
// The Sentinels' own user and password are sentinel_user and sentinel_password. User, password and the values behind
// "?" are percent-encoded where they contain reserved characters. No error contains any part of the URL but the names of
// settings.
func Parse(text string) (*redis.UniversalOptions, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errScheme
	}
	o := &redis.UniversalOptions{
		DialTimeout: dialTimeout, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, ContextTimeoutEnabled: true,
		// A dial that fails is a try that fails.
		DialerRetries: 1, MaxRetries: maxRetries, MinRetryBackoff: minBackoff, MaxRetryBackoff: maxBackoff,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	port, sentinel := "6379", false
	switch strings.ToLower(scheme) {
	case "redis":
	case "rediss":
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	case "redis-sentinel":
		port, sentinel = "26379", true
	case "rediss-sentinel":
		port, sentinel = "26379", true
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	default:
		return nil, errScheme
	}
	rest, query, _ := strings.Cut(rest, "?")
	if err := parseQuery(o, query, sentinel); err != nil {
		return nil, err
	}
	rest, path, _ := strings.Cut(rest, "/")
	user, hosts, ok := cutLast(rest, "@")
	if !ok {
		user, hosts = "", rest
	}
	if err := parseUser(o, user, ok, sentinel); err != nil {
		return nil, err
	}
	if err := parseHosts(o, hosts, port); err != nil {
		return nil, err
	}
	if sentinel && o.MasterName == "" {
		return nil, errors.New("the master's name is missing: add ?master=name")
	}
	o.IsClusterMode = o.IsClusterMode || !sentinel && len(o.Addrs) > 1
	if path != "" {
		db, err := strconv.ParseUint(path, 10, 16)
		if err != nil {
			return nil, errors.New("what follows the address is not a database number such as /0 " +
				"(a slash or question mark in a password must be percent-encoded)")
		}
		o.DB = int(db)
	}
	if o.IsClusterMode && o.DB != 0 {
		return nil, errors.New("a Cluster has no databases but 0: leave the number away, or name one address")
	}
	return o, nil
}

var errScheme = errors.New("it does not start with redis://, rediss://, redis-sentinel:// or rediss-sentinel://")

// cutLast cuts around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}

func parseQuery(o *redis.UniversalOptions, query string, sentinel bool) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("what follows the question mark is not a list of settings such as ?master=name")
	}
	for name, all := range values {
		value := all[len(all)-1]
		switch {
		case name == "master" && sentinel:
			o.MasterName = value
		case name == "sentinel_user" && sentinel:
			o.SentinelUsername = value
		case name == "sentinel_password" && sentinel:
			o.SentinelPassword = value
		case name == "cluster" && !sentinel:
			if o.IsClusterMode, err = strconv.ParseBool(value); err != nil {
				return errors.New("cluster is not true or false")
			}
		case sentinel:
			return errors.New("a setting behind the question mark is not master, sentinel_user or sentinel_password")
		default:
			return errors.New("the setting behind the question mark is not cluster=true")
		}
	}
	return nil
}

func parseUser(o *redis.UniversalOptions, info string, given, sentinel bool) error {
	if !given {
		return nil
	}
	user, password, ok := strings.Cut(info, ":")
	user, userErr := url.PathUnescape(user)
	password, passwordErr := url.PathUnescape(password)
	if userErr != nil || passwordErr != nil {
		return errors.New("the user or password has a percent sign that is not part of an encoded character: write %25 for it")
	}
	switch {
	case ok && password != "":
		o.Username, o.Password = user, password
	case sentinel && o.MasterName == "":
		o.MasterName = user
	case user != "":
		return errors.New("there is a user but no password: a password alone is written :password@")
	}
	return nil
}

func parseHosts(o *redis.UniversalOptions, hosts, port string) error {
	for i, host := range strings.Split(hosts, ",") {
		if !strings.HasPrefix(host, "[") && !strings.Contains(host, ":") || strings.HasSuffix(host, "]") {
			host += ":" + port
		}
		name, number, err := net.SplitHostPort(host)
		if n, portErr := strconv.ParseUint(number, 10, 16); err != nil || portErr != nil || n == 0 || name == "" {
			return fmt.Errorf("address %d is not host:port (an @, slash or comma in a password must be percent-encoded)", i+1)
		}
		o.Addrs = append(o.Addrs, net.JoinHostPort(name, number))
	}
	return nil
}
