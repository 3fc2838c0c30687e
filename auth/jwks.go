package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"
)

const (
	jwksTimeout  = 10 * time.Second
	jwksRefresh  = 15 * time.Minute // a revoked key is gone by then
	jwksMaxBytes = 1 << 20

	// An unknown key id makes us look for new keys, at most once in this time: anybody can invent key ids.
	unknownKeyEvery = 10 * time.Second
	// How long a client with an unknown key id waits for its turn to look.
	unknownKeyWait = 5 * time.Second
)

var (
	errUnknownKey = errors.New("unknown key")

	// forSignatures leaves out keys that the issuer made for encryption.
	forSignatures = []jwkset.USE{jwkset.UseSig, ""}
)

// fetchKeys loads the key set at address and keeps it fresh until ctx is done.
func fetchKeys(ctx context.Context, address string, logger zerolog.Logger) (func(context.Context) jwt.Keyfunc, error) {
	safe := redact(address)
	ctx, cancel := context.WithCancel(ctx)
	ready := false
	defer func() {
		if !ready {
			cancel() // the goroutine that refreshes runs before the first fetch
		}
	}()
	storage, err := jwkset.NewStorageFromHTTP(address, jwkset.HTTPClientStorageOptions{
		Client: &http.Client{Transport: &limited{max: jwksMaxBytes, next: &http.Transport{
			Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
			DisableKeepAlives: true, // the next fetch is minutes away
		}}},
		Ctx:         ctx,
		HTTPTimeout: jwksTimeout,
		RefreshErrorHandler: func(_ context.Context, err error) {
			logger.Warn().Err(withoutURL(err)).Str("url", safe).Msg("could not refresh the JWT keys: going on with the ones known")
		},
		RefreshInterval: jwksRefresh,
	})
	if err != nil {
		return nil, fmt.Errorf("fetch the JWT keys from %s: %w: check the address, and that it answers with a JSON Web Key Set", safe, withoutURL(err))
	}
	if all, err := storage.KeyReadAll(ctx); err != nil || len(all) == 0 {
		return nil, fmt.Errorf("the JWT key set at %s holds no key that can be used: check that this is where the issuer publishes its keys", safe)
	}
	keys, err := jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		HTTPURLs:          map[string]jwkset.Storage{address: storage},
		RateLimitWaitMax:  unknownKeyWait,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(unknownKeyEvery), 1),
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the JWT keys: %w", err)
	}
	byID, err := keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: keys, UseWhitelist: forSignatures})
	if err != nil {
		return nil, fmt.Errorf("prepare the JWT keys: %w", err)
	}
	ready = true
	return func(ctx context.Context) jwt.Keyfunc {
		return func(token *jwt.Token) (key any, err error) {
			if _, ok := token.Header["kid"]; ok {
				key, err = byID.KeyfuncCtx(ctx)(token)
			} else {
				key, err = candidates(ctx, keys, token.Method.Alg())
			}
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errUnknownKey, err)
			}
			return key, nil
		}
	}, nil
}

// candidates returns the keys that a token without a key id may be signed with.
func candidates(ctx context.Context, keys jwkset.Storage, algorithm string) (jwt.VerificationKeySet, error) {
	var set jwt.VerificationKeySet
	all, err := keys.KeyReadAll(ctx)
	if err != nil {
		return set, err
	}
	for _, k := range all {
		m := k.Marshal()
		if slices.Contains(forSignatures, m.USE) && (m.ALG == "" || m.ALG.String() == algorithm) {
			set.Keys = append(set.Keys, k.Key())
		}
	}
	return set, nil
}

// limited is a RoundTripper whose answers end after max bytes.
type limited struct {
	next http.RoundTripper
	max  int64
}

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, l.max), resp.Body}
	return resp, nil
}

// redact returns an address without the password or query that it may carry.
func redact(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "the configured address"
	}
	u.RawQuery, u.User = "", nil
	return u.String()
}

// withoutURL drops the address that net/http puts into its errors.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
