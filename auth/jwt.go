package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rs/zerolog"
)

const (
	// weakSecret is the length in bytes below which an HS256 secret is warned of: RFC 7518, section 3.2, asks for
	// that of the hash, because one captured token lets anybody try short secrets offline. It is not refused,
	// because the issuer chose it.
	weakSecret = 32

	maxToken      = 8192 // bytes; what identity providers issue stays far below, and headers end near there
	maxSubject    = 255  // OpenID Connect Core, section 2, "sub"
	maxName       = 100
	defaultLeeway = 30 * time.Second
)

// JWTOptions say which tokens are good. Exactly one of Secret and JWKSURL is set.
type JWTOptions struct {
	Secret   string // for HS256; fewer than 32 bytes are warned of
	JWKSURL  string // where the issuer publishes its public keys
	Issuer   string // required value of "iss"; "" accepts any
	Audience string // required among "aud"; "" accepts any

	// Leeway is how far the issuer's clock may be ahead of ours ("nbf" and "iat"); zero means 30 s.
	// Expiry has none: a token that is past "exp" is refused.
	Leeway time.Duration

	Now    func() time.Time // nil means time.Now
	Logger zerolog.Logger   // told of a weak secret, and when keys could not be refreshed
}

// NewJWT returns a Verifier for JSON Web Tokens (RFC 7519). The configured key decides the algorithms: a
// secret allows HS256 alone; a key set allows RSA, ECDSA and Ed25519 signatures and never HMAC, so a public
// key can't be passed off as a secret.
//
// With JWKSURL the keys are fetched before NewJWT returns, which fails if they can't be, and then kept
// fresh in the background until ctx is done.
func NewJWT(ctx context.Context, opts JWTOptions) (Verifier, error) {
	v := &verifier{}
	var algorithms []string
	switch {
	case opts.Secret != "" && opts.JWKSURL != "":
		return nil, errors.New("a JWT secret and a JWKS URL are both set: keep the one that your issuer signs with")
	case opts.Secret != "":
		if len(opts.Secret) < weakSecret {
			opts.Logger.Warn().Msgf("the JWT secret has %d bytes, and so few can be guessed from one token: have the issuer use at least %d random ones", len(opts.Secret), weakSecret)
		}
		algorithms = []string{"HS256"}
		secret := []byte(opts.Secret)
		v.key = func(context.Context) jwt.Keyfunc {
			return func(*jwt.Token) (any, error) { return secret, nil }
		}
	case opts.JWKSURL != "":
		algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
		key, err := fetchKeys(ctx, opts.JWKSURL, opts.Logger)
		if err != nil {
			return nil, err
		}
		v.key = key
	default:
		return nil, errors.New("neither a JWT secret nor a JWKS URL is set: one of them must say which tokens are good")
	}

	v.now = opts.Now
	if v.now == nil {
		v.now = time.Now
	}
	leeway := opts.Leeway
	if leeway == 0 {
		leeway = defaultLeeway
	}
	parser := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms),
		jwt.WithExpirationRequired(),
		jwt.WithIssuedAt(),
		jwt.WithLeeway(leeway),
		jwt.WithTimeFunc(v.now),
		jwt.WithStrictDecoding(),
	}
	if opts.Issuer != "" {
		parser = append(parser, jwt.WithIssuer(opts.Issuer))
	}
	if opts.Audience != "" {
		parser = append(parser, jwt.WithAudience(opts.Audience))
	}
	v.parser = jwt.NewParser(parser...)
	return v, nil
}

// verifier is immutable after NewJWT.
type verifier struct {
	parser *jwt.Parser
	key    func(context.Context) jwt.Keyfunc
	now    func() time.Time
}

// claims are the parts of a token that Parley reads.
type claims struct {
	jwt.RegisteredClaims
	Name              any `json:"name"` // any: a wrong type in a claim for display is no reason to refuse
	PreferredUsername any `json:"preferred_username"`
}

func (v *verifier) Verify(ctx context.Context, token string) (Identity, error) {
	if token == "" {
		return Identity{}, ErrNoToken
	}
	if len(token) > maxToken {
		return Identity{}, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalid, maxToken)
	}
	var c claims
	parsed, err := v.parser.ParseWithClaims(token, &c, v.key(ctx))
	if err != nil {
		return Identity{}, refusal(err)
	}
	if _, ok := parsed.Header["crit"]; ok { // RFC 7515, section 4.1.11: we know none of these extensions
		return Identity{}, fmt.Errorf("%w: it names extensions that must be understood (crit)", ErrInvalid)
	}
	if !v.now().Before(c.ExpiresAt.Time) { // the parser allowed for the leeway
		return Identity{}, ErrExpired
	}
	if !subject(c.Subject) {
		return Identity{}, fmt.Errorf("%w: its subject must be 1 to %d printable ASCII characters without spaces", ErrInvalid, maxSubject)
	}
	id := Identity{User: c.Subject, Name: c.Subject, Expires: c.ExpiresAt.Time}
	for _, claim := range []any{c.Name, c.PreferredUsername} {
		if s, ok := claim.(string); ok {
			if name := displayName(s); name != "" {
				id.Name = name
				break
			}
		}
	}
	return id, nil
}

// refusal turns the parser's error into one whose text is ours: fixed, and without anything of the token.
func refusal(err error) error {
	for _, r := range []struct {
		err error
		why string
	}{
		// In this order: a forged token is called forged, whatever else is wrong with it.
		{jwt.ErrTokenMalformed, "it is not a JSON Web Token"},
		{errUnknownKey, "it is signed with a key that its issuer does not publish"},
		{jwt.ErrTokenUnverifiable, "its algorithm or key is not accepted"},
		{jwt.ErrTokenSignatureInvalid, "its signature or algorithm is not accepted"},
		{jwt.ErrTokenExpired, ""},
		{jwt.ErrTokenNotValidYet, "its time has not come yet (nbf)"},
		{jwt.ErrTokenUsedBeforeIssued, "it is from the future (iat)"},
		{jwt.ErrTokenInvalidIssuer, "it comes from another issuer"},
		{jwt.ErrTokenInvalidAudience, "it is meant for another audience"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks a required claim (exp, and iss or aud where configured)"},
	} {
		switch {
		case !errors.Is(err, r.err):
		case r.why == "":
			return ErrExpired
		default:
			return fmt.Errorf("%w: %s", ErrInvalid, r.why)
		}
	}
	return ErrInvalid
}

// subject tells whether s can be a user's id: it becomes a room name and a store key.
func subject(s string) bool {
	if len(s) == 0 || len(s) > maxSubject {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// displayName makes a name from a claim fit to show: one line, no control characters, bounded.
func displayName(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if utf8.RuneCountInString(s) > maxName {
		s = strings.TrimSpace(string([]rune(s)[:maxName]))
	}
	return s
}
