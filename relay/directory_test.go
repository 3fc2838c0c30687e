package relay

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
)

func TestLease(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{Lease: 60 * time.Millisecond}, nobody)
	key := prefixSeat + a.Node()
	if ttl := r.TTL(key); ttl != 60*time.Millisecond {
		t.Errorf("the lease is %v", ttl)
	}
	r.FastForward(time.Second)
	if r.Exists(key) {
		t.Fatal("the lease does not end")
	}
	eventually(t, "it is taken again", func() bool { return r.Exists(key) })

	// A name that another process has is not taken from it.
	if err := r.Set(key, "other http://192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if mine, err := a.renew(t.Context()); mine || err != nil {
		t.Errorf("took another's name: %v", err)
	}
	a.Relay.Close(t.Context())
	if got, _ := r.Get(key); got != "other http://192.0.2.1" {
		t.Errorf("the other's entry is %q", got)
	}
}

func TestNoSuchProcess(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, nobody)
	b := newProcess(t, r, Options{}, nobody)
	a.want("GET", "AAAAA", "", "400 unknown")
	a.counted("absent", 1)

	// One that was killed is known until its lease ends.
	b.Server.Close()
	a.want("POST", b.Node(), "x", "400 unknown")
	a.want("GET", b.Node(), "", "400 unknown")
	a.counted("absent", 3)

	// One that left is forgotten at once, even if its address answers still.
	c := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	a.want("GET", c.Node(), "", "200 here")
	c.Relay.Close(t.Context())
	a.stale(c.Node(), 0)
	a.want("GET", c.Node(), "", "400 unknown")
	if ttl := r.TTL(prefixSeat + c.Node()); ttl != 10*time.Second {
		t.Errorf("the name of a process that left is kept for %v", ttl)
	}
}

// stale has the directory ask for a node again, which it has missed for that long.
func (p *process) stale(node string, missing time.Duration) {
	d := p.directory
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.known[node]
	known.until = time.Now()
	if missing > 0 {
		known.missing = known.until.Add(-missing)
	}
	d.known[node] = known
}

// TestRedisForgets has a Redis that comes back empty, or later than the leases: who was there is taken to be there still,
// but not for ever.
func TestRedisForgets(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	b := newProcess(t, r, Options{}, nobody)
	b.want("GET", a.Node(), "", "200 here")
	r.FlushAll()
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here")
	b.stale(a.Node(), 9*time.Second)
	b.want("GET", a.Node(), "", "200 here")
	if err := a.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stale(a.Node(), 9*time.Second)
	b.want("GET", a.Node(), "", "200 here")
	r.FlushAll()
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here") // the time begins anew
	b.stale(a.Node(), 10*time.Second)
	b.want("GET", a.Node(), "", "400 unknown")
	b.counted("absent", 1)
}

func TestRedisAway(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") })
	b := newProcess(t, r, Options{}, nobody)
	b.want("GET", a.Node(), "", "200 here")
	r.SetError("LOADING")
	b.stale(a.Node(), 0)
	b.want("GET", a.Node(), "", "200 here")
	b.want("GET", "AAAAA", "", "503 The process of this connection can't be looked up")
	b.counted("directory", 1)
	r.SetError("")
}

func TestJoinWithoutRedis(t *testing.T) {
	r := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), MaxRetries: -1})
	defer client.Close()
	r.SetError("LOADING")
	if _, err := Join(t.Context(), Options{Client: client}); err == nil || !strings.Contains(err.Error(), "register") {
		t.Error(err)
	}
	// It says that it waits, upon which Redis answers.
	log := zerolog.New(writerFunc(func() { r.SetError("") }))
	joined, err := Join(t.Context(), Options{Client: client, Wait: time.Minute, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r.SetError("LOADING")
	if err := joined.Advertise(t.Context(), "http://127.0.0.1:1"); err != nil {
		t.Error(err) // the next renewal does it
	}
	joined.Close(t.Context())
}

// TestKeyOfANewProcess has Redis lose the key, and a new process set its own before the others give theirs back.
func TestKeyOfANewProcess(t *testing.T) {
	r := miniredis.RunT(t)
	here := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }
	a, b := newProcess(t, r, Options{}, here), newProcess(t, r, Options{}, here)
	r.Del(keySecret)
	c := newProcess(t, r, Options{}, here)
	old, _ := b.keys.get()
	if key, _ := c.keys.get(); key == old {
		t.Fatal("the key is not lost")
	}
	c.want("GET", b.Node(), "", "200 here")
	a.want("GET", c.Node(), "", "200 here")

	// However many signatures are bad, Redis is not asked each time.
	before := r.CommandCount()
	for range 50 {
		b.want("GET", b.Node(), "", "403 ", func(r *http.Request) { r.Header.Set(header, "1 a 00") })
	}
	if asked := r.CommandCount() - before; asked > 10 {
		t.Errorf("Redis was asked %d times", asked)
	}

	// Who is refused all the same says so as the other failures do, and gets it right from then on.
	c.keys.mu.Lock()
	c.keys.current, c.keys.last = "another", ""
	c.keys.mu.Unlock()
	b.keys.asking.Lock()
	b.keys.asked = time.Now().Add(time.Hour)
	b.keys.asking.Unlock()
	c.want("GET", b.Node(), "", "503 The process of this connection does not trust this one")
	c.counted("refused", 1)
	c.want("GET", b.Node(), "", "200 here")
}

// TestDirectoryIsBounded has clients make up names.
func TestDirectoryIsBounded(t *testing.T) {
	r := miniredis.RunT(t)
	a := newProcess(t, r, Options{}, nobody)
	b := newProcess(t, r, Options{}, nobody)
	d := a.directory
	if _, err := d.find(b.Node()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxNames {
		if u, err := d.find(fmt.Sprintf("%05d", i)); u != nil || err != nil {
			t.Fatal(u, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.absent) > maxNames || d.known[b.Node()].url == nil {
		t.Errorf("%d names are kept, and %d that are known", len(d.absent), len(d.known))
	}
}
