package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"parley/auth"
)

const secret = "a secret of at least thirty-two bytes"

// keys are made once: RSA keys are slow to make.
var keys = sync.OnceValue(func() map[string]crypto.Signer {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	m := map[string]crypto.Signer{"rsa": rsaKey}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		if m[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			panic(err)
		}
	}
	if _, m["ed25519"], err = ed25519.GenerateKey(rand.Reader); err != nil {
		panic(err)
	}
	return m
})

// issuer is an identity provider on a local listener; which keys it publishes can change.
type issuer struct {
	*httptest.Server
	mu      sync.Mutex
	names   []string
	use     string
	fetched atomic.Int64
}

func newIssuer(t *testing.T, names ...string) *issuer {
	t.Helper()
	i := &issuer{names: names, use: "sig"}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.fetched.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		set := []map[string]string{}
		for _, name := range i.names {
			set = append(set, jwk(name, i.use))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": set})
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) publish(names ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.names = names
}

// jwk is a key in the form of RFC 7517; its id is its name.
func jwk(name, use string) map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	m := map[string]string{"kid": name, "use": use}
	switch k := keys()[name].Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		half := (len(point) - 1) / 2
		m["kty"], m["crv"], m["x"], m["y"] = "EC", k.Params().Name, b64(point[1:1+half]), b64(point[1+half:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	}
	return m
}

// good are claims that every verifier of these tests accepts.
func good(changes ...map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{
		"sub": "user-1", "iss": "https://issuer.example", "aud": []string{"other", "parley"},
		"exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "name": "Alice Example",
	}
	for _, change := range changes {
		for k, v := range change {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
	}
	return c
}

func sign(t *testing.T, method jwt.SigningMethod, kid string, key any, c jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func verifier(t *testing.T, o auth.JWTOptions) auth.Verifier {
	t.Helper()
	o.Issuer, o.Audience = "https://issuer.example", "parley"
	v, err := auth.NewJWT(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEveryAlgorithm(t *testing.T) {
	i := newIssuer(t, "rsa", "p256", "p384", "p521", "ed25519")
	published := verifier(t, auth.JWTOptions{JWKSURL: i.URL})
	shared := verifier(t, auth.JWTOptions{Secret: secret})
	for _, c := range []struct {
		method jwt.SigningMethod
		key    string
	}{
		{jwt.SigningMethodHS256, ""},
		{jwt.SigningMethodRS256, "rsa"}, {jwt.SigningMethodRS384, "rsa"}, {jwt.SigningMethodRS512, "rsa"},
		{jwt.SigningMethodPS256, "rsa"},
		{jwt.SigningMethodES256, "p256"}, {jwt.SigningMethodES384, "p384"}, {jwt.SigningMethodES512, "p521"},
		{jwt.SigningMethodEdDSA, "ed25519"},
	} {
		for _, kid := range []string{c.key, ""} { // with a key id and without
			t.Run(c.method.Alg()+"/kid="+kid, func(t *testing.T) {
				v, key := published, any(keys()[c.key])
				if c.key == "" {
					v, key = shared, []byte(secret)
				}
				claims := good()
				id, err := v.Verify(t.Context(), sign(t, c.method, kid, key, claims))
				if err != nil {
					t.Fatal(err)
				}
				want := auth.Identity{User: "user-1", Name: "Alice Example", Expires: time.Unix(claims["exp"].(int64), 0)}
				if id != want {
					t.Errorf("got %+v, want %+v", id, want)
				}
			})
		}
	}
}

func TestRefusedClaims(t *testing.T) {
	v := verifier(t, auth.JWTOptions{Secret: secret})
	now := time.Now()
	for name, c := range map[string]struct {
		change map[string]any
		want   error
	}{
		"expired":             {map[string]any{"exp": now.Add(-time.Second).Unix()}, auth.ErrExpired},
		"no exp":              {map[string]any{"exp": nil}, auth.ErrInvalid},
		"exp not a number":    {map[string]any{"exp": "tomorrow"}, auth.ErrInvalid},
		"exp beyond time":     {map[string]any{"exp": 1e300}, auth.ErrExpired},
		"not yet":             {map[string]any{"nbf": now.Add(time.Minute).Unix()}, auth.ErrInvalid},
		"from the future":     {map[string]any{"iat": now.Add(time.Minute).Unix()}, auth.ErrInvalid},
		"other issuer":        {map[string]any{"iss": "https://evil.example"}, auth.ErrInvalid},
		"no issuer":           {map[string]any{"iss": nil}, auth.ErrInvalid},
		"other audience":      {map[string]any{"aud": "other"}, auth.ErrInvalid},
		"no audience":         {map[string]any{"aud": nil}, auth.ErrInvalid},
		"no subject":          {map[string]any{"sub": nil}, auth.ErrInvalid},
		"subject not a text":  {map[string]any{"sub": 7}, auth.ErrInvalid},
		"subject too long":    {map[string]any{"sub": strings.Repeat("x", 256)}, auth.ErrInvalid},
		"subject with space":  {map[string]any{"sub": "a b"}, auth.ErrInvalid},
		"subject with NUL":    {map[string]any{"sub": "a\x00b"}, auth.ErrInvalid},
		"subject not ASCII":   {map[string]any{"sub": "zoë"}, auth.ErrInvalid},
		"too large to be one": {map[string]any{"junk": strings.Repeat("x", 8192)}, auth.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, v, sign(t, jwt.SigningMethodHS256, "", []byte(secret), good(c.change)), c.want)
		})
	}
}

func TestAcceptedClaims(t *testing.T) {
	v := verifier(t, auth.JWTOptions{Secret: secret})
	soon := time.Now().Add(10 * time.Second).Unix()
	for name, c := range map[string]struct {
		change   map[string]any
		wantName string
	}{
		"clock of the issuer ahead": {map[string]any{"nbf": soon, "iat": soon}, "Alice Example"},
		"longest subject":           {map[string]any{"sub": strings.Repeat("~", 255)}, "Alice Example"},
		"preferred username":        {map[string]any{"name": nil, "preferred_username": "ali"}, "ali"},
		"name is not a text":        {map[string]any{"name": 7, "preferred_username": []int{1}}, "user-1"},
		"no name":                   {map[string]any{"name": " \t\n"}, "user-1"},
		"control characters":        {map[string]any{"name": " A\x1b[2Jli\nce\u0085 "}, "A[2Jlice"},
		"long name":                 {map[string]any{"name": strings.Repeat("é", 200)}, strings.Repeat("é", 100)},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodHS256, "", []byte(secret), good(c.change)))
			if err != nil {
				t.Fatal(err)
			}
			if id.Name != c.wantName {
				t.Errorf("name %q, want %q", id.Name, c.wantName)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	i := newIssuer(t, "rsa", "p256")
	published := verifier(t, auth.JWTOptions{JWKSURL: i.URL})
	shared := verifier(t, auth.JWTOptions{Secret: secret})

	public, err := x509.MarshalPKIXPublicKey(keys()["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	valid := sign(t, jwt.SigningMethodHS256, "", []byte(secret), good())
	parts := strings.Split(valid, ".")
	critical := jwt.NewWithClaims(jwt.SigningMethodHS256, good())
	critical.Header["crit"] = []string{"b64"}
	extended, err := critical.SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}

	for name, c := range map[string]struct {
		v     auth.Verifier
		token string
		want  error
	}{
		"nothing":                        {shared, "", auth.ErrNoToken},
		"not a token":                    {shared, "abc", auth.ErrInvalid},
		"four parts":                     {shared, valid + ".x", auth.ErrInvalid},
		"no signature":                   {shared, parts[0] + "." + parts[1] + ".", auth.ErrInvalid},
		"another secret":                 {shared, sign(t, jwt.SigningMethodHS256, "", []byte(secret+"!"), good()), auth.ErrInvalid},
		"forged and expired":             {shared, sign(t, jwt.SigningMethodHS256, "", []byte("x"), good(map[string]any{"exp": 1})), auth.ErrInvalid},
		"an extension that is critical":  {shared, extended, auth.ErrInvalid},
		"none against a secret":          {shared, sign(t, jwt.SigningMethodNone, "", jwt.UnsafeAllowNoneSignatureType, good()), auth.ErrInvalid},
		"none against keys":              {published, sign(t, jwt.SigningMethodNone, "rsa", jwt.UnsafeAllowNoneSignatureType, good()), auth.ErrInvalid},
		"HS512 against a secret":         {shared, sign(t, jwt.SigningMethodHS512, "", []byte(secret), good()), auth.ErrInvalid},
		"RS256 against a secret":         {shared, sign(t, jwt.SigningMethodRS256, "", keys()["rsa"], good()), auth.ErrInvalid},
		"HS256 with the public key":      {published, sign(t, jwt.SigningMethodHS256, "rsa", publicPEM, good()), auth.ErrInvalid},
		"a key for another algorithm":    {published, sign(t, jwt.SigningMethodRS256, "p256", keys()["rsa"], good()), auth.ErrInvalid},
		"a key that is not published":    {published, sign(t, jwt.SigningMethodES384, "p384", keys()["p384"], good()), auth.ErrInvalid},
		"no key id, key not published":   {published, sign(t, jwt.SigningMethodEdDSA, "", keys()["ed25519"], good()), auth.ErrInvalid},
		"key id of another's key":        {published, sign(t, jwt.SigningMethodES256, "p256", mustP256(t), good()), auth.ErrInvalid},
		"an algorithm that nobody knows": {shared, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"XX"}`)) + "." + parts[1] + "." + parts[2], auth.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.v, c.token, c.want) })
	}
}

func mustP256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// refused checks that token is refused with want, in words that quote nothing of it.
func refused(t *testing.T, v auth.Verifier, token string, want error) {
	t.Helper()
	id, err := v.Verify(t.Context(), token)
	if !errors.Is(err, want) {
		t.Fatalf("got %+v and error %v, want %v", id, err, want)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 3 && strings.Contains(err.Error(), part) {
			t.Errorf("the error quotes the token: %v", err)
		}
	}
	if len(err.Error()) > 200 {
		t.Errorf("the error is not for a client: %v", err)
	}
}

func TestNewKeyIsFound(t *testing.T) {
	i := newIssuer(t, "p256")
	v := verifier(t, auth.JWTOptions{JWKSURL: i.URL})
	i.publish("p256", "p384")
	if _, err := v.Verify(t.Context(), sign(t, jwt.SigningMethodES384, "p384", keys()["p384"], good())); err != nil {
		t.Fatal(err)
	}
	// That look-up used the turn: the next unknown keys do not reach the issuer.
	before := i.fetched.Load()
	for range 20 {
		refused(t, v, sign(t, jwt.SigningMethodES512, "p521", keys()["p521"], good()), auth.ErrInvalid)
	}
	if n := i.fetched.Load(); n != before {
		t.Errorf("unknown keys made %d fetches", n-before)
	}
}

func TestEncryptionKeysDoNotSign(t *testing.T) {
	i := newIssuer(t, "p256")
	i.use = "enc"
	v := verifier(t, auth.JWTOptions{JWKSURL: i.URL})
	for _, kid := range []string{"p256", ""} {
		refused(t, v, sign(t, jwt.SigningMethodES256, kid, keys()["p256"], good()), auth.ErrInvalid)
	}
}

func TestUnusableKeySettings(t *testing.T) {
	broken := func(body string, status int) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for name, c := range map[string]struct {
		opts auth.JWTOptions
		want string
	}{
		"neither":        {auth.JWTOptions{}, "neither"},
		"both":           {auth.JWTOptions{Secret: secret, JWKSURL: "https://x"}, "both"},
		"unreachable":    {auth.JWTOptions{JWKSURL: gone.URL}, "fetch the JWT keys"},
		"not found":      {auth.JWTOptions{JWKSURL: broken("", 404)}, "404"},
		"not JSON":       {auth.JWTOptions{JWKSURL: broken("<html>", 200)}, "JSON"},
		"empty set":      {auth.JWTOptions{JWKSURL: broken(`{"keys":[]}`, 200)}, "no key"},
		"endless answer": {auth.JWTOptions{JWKSURL: broken(`{"keys":[`+strings.Repeat(" ", 2<<20)+`]}`, 200)}, "fetch the JWT keys"},
		"password":       {auth.JWTOptions{JWKSURL: "http://u:hunter2@" + strings.TrimPrefix(gone.URL, "http://") + "/?key=hunter2"}, "fetch the JWT keys"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := auth.NewJWT(t.Context(), c.opts)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows a secret: %v", err)
			}
		})
	}
}
