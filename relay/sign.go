package relay

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"parley/engineio"
	"parley/metrics"
)

// header marks a request that a process forwards: "<unix seconds> <address of the client> <HMAC in hex>".
const header = "Parley-Relay"

const keySecret = "parley:relay-secret" //nolint:gosec // the name of the key in Redis

// tolerance is by how much the clocks of two processes may differ. What is signed is good for as long, which is of
// little use to anybody: it says no more than what the client said itself.
const tolerance = 5 * time.Minute

// keys are what processes sign with. When Redis has lost the key they agree on a new one, and take the last one for
// as long as there is no newer.
type keys struct {
	mu            sync.RWMutex
	current, last string

	asking sync.Mutex // held while Redis is asked again
	asked  time.Time  // guarded by asking
}

func (k *keys) set(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key != "" && key != k.current {
		k.current, k.last = key, k.current
	}
}

func (k *keys) get() (current, last string) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current, k.last
}

// agree takes the key that Redis has, and gives it ours, or a new one, if it has none.
func (r *Relay) agree(ctx context.Context) error {
	key, _ := r.keys.get()
	if key == "" {
		key = random(32)
	}
	err := r.opts.Client.SetArgs(ctx, keySecret, key, redis.SetArgs{Mode: "NX"}).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("agree on a key with the other processes: %w", err)
	}
	if key, err = r.opts.Client.Get(ctx, keySecret).Result(); err != nil {
		return fmt.Errorf("agree on a key with the other processes: %w", err)
	}
	r.keys.set(key)
	return nil
}

// rereadAfter is how long what Redis said of the key is good for. Anybody may send bad signatures.
const rereadAfter = time.Second

// reread asks Redis for the key unless that was done just now. Who comes while it is being asked waits for that.
func (r *Relay) reread(ctx context.Context) {
	k := &r.keys
	k.asking.Lock()
	defer k.asking.Unlock()
	if time.Since(k.asked) < rereadAfter {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redisTimeout)
	defer cancel()
	if key, err := r.opts.Client.Get(ctx, keySecret).Result(); err == nil {
		k.set(key)
	}
	k.asked = time.Now()
}

// mac signs a request. uri is its path and query.
func mac(key, method, uri, seconds, address string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	for _, part := range []string{method, uri, seconds, address} {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part) // a hash takes everything
	}
	return h.Sum(nil)
}

// sign returns the header of a request that is forwarded for a client.
func (r *Relay) sign(method, uri, address string) string {
	key, _ := r.keys.get()
	seconds := strconv.FormatInt(time.Now().Unix(), 10)
	return seconds + " " + address + " " + hex.EncodeToString(mac(key, method, uri, seconds, address))
}

// verify returns the address of the client for which another process signed a request.
func (r *Relay) verify(req *http.Request) (address string, err error) {
	fields := strings.Split(req.Header.Get(header), " ")
	if len(fields) != 3 {
		return "", errors.New("the header has another form")
	}
	seconds, address := fields[0], fields[1]
	signature, err := hex.DecodeString(fields[2])
	if err != nil {
		return "", errors.New("the signature has another form")
	}
	signed := func() bool {
		current, last := r.keys.get()
		return hmac.Equal(signature, mac(current, req.Method, req.RequestURI, seconds, address)) ||
			last != "" && hmac.Equal(signature, mac(last, req.Method, req.RequestURI, seconds, address))
	}
	if !signed() {
		// Redis has lost the key perhaps, and a process that has begun since set another.
		if r.reread(req.Context()); !signed() {
			return "", errors.New("the signature is not one of a process on the same Redis")
		}
	}
	at, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > tolerance {
		return "", errors.New("the signature is too old or too new: set the clocks of all machines")
	}
	return address, nil
}

// forwardedKey is the context key of a request that another process forwarded.
type forwardedKey struct{}

// Receive returns a handler that hands requests on to next. Those that another process forwarded come from the client's
// address then, and Forward leaves them alone; those that only say so are refused with status 403.
func (r *Relay) Receive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if len(req.Header.Values(header)) == 0 {
			next.ServeHTTP(w, req)
			return
		}
		address, err := r.verify(req)
		if err != nil {
			r.opts.Metrics.Count(metrics.RelayFailed, "signature")
			r.warn(err, "", "refused a request that claims to come from another process")
			// What nobody has read of a body, net/http reads before it answers.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(r.opts.WriteTimeout))
			w.Header().Set(header, "refused")
			http.Error(w, "The header "+header+" is for Parley's own processes: "+err.Error(), http.StatusForbidden)
			return
		}
		req = req.WithContext(context.WithValue(req.Context(), forwardedKey{}, true))
		req.RemoteAddr = address
		req.Header.Del(header)
		if req.Method == methodRelease {
			req = engineio.ReleaseGet(req)
		}
		next.ServeHTTP(w, req)
	})
}
