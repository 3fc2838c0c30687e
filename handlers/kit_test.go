package handlers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxzan/gws"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"parley/auth"
	"parley/handlers"
	"parley/metrics"
	"parley/socketio"
	"parley/store"
	"parley/store/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test for something that must happen.
const patience = 10 * time.Second

// setup is what a test may choose of a fixture.
type setup struct {
	chat     handlers.ChatOptions
	socketio socketio.Options
	store    store.Options
}

// fixture is both applications behind a real listener.
type fixture struct {
	t        *testing.T
	url      string
	server   *socketio.Server
	metrics  *metrics.Metrics
	store    *faulty
	log      *lockedBuffer
	client   *http.Client
	chat     *handlers.Chat
	verifier auth.Verifier
}

func start(t *testing.T, configure ...func(*setup)) *fixture {
	t.Helper()
	f := &fixture{t: t, metrics: metrics.New(), log: new(lockedBuffer)}
	var o setup
	for _, c := range configure {
		c(&o)
	}
	f.store = &faulty{Store: memory.New(o.store), calls: make(map[string]int)}
	log := zerolog.New(f.log)
	o.socketio.Log, o.socketio.Metrics = log, f.metrics
	o.socketio.Engine.PingInterval = time.Minute
	o.chat.Store, o.chat.Log = f.store, log
	f.verifier = o.chat.Verifier
	var err error
	if f.server, err = socketio.NewServer(o.socketio); err != nil {
		t.Fatal(err)
	}
	f.chat = handlers.NewChat(f.server.Of("/"), o.chat)
	handlers.NewNotify(f.server.Of("/socket"), handlers.NotifyOptions{Store: f.store, Verifier: o.chat.Verifier, Log: log})
	h := httptest.NewServer(f.server)
	f.url, f.client = h.URL, h.Client()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background()) // with a deadline Shutdown would take its time
		defer cancel()
		defer time.AfterFunc(patience, cancel).Stop()
		f.store.failWith(nil)
		if err := f.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		f.chat.Close()
		h.Close()
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(f.log.String()) {
			if strings.Contains(line, "panicked") || t.Failed() && !strings.Contains(line, `"debug"`) {
				t.Errorf("logged: %s", line)
			}
		}
	})
	return f
}

// faulty is a store whose methods fail when told to, and are counted.
type faulty struct {
	store.Store

	mu    sync.Mutex
	fail  func(op string) error
	calls map[string]int // that have returned
}

func (s *faulty) failWith(f func(op string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// failing makes one method fail.
func (s *faulty) failing(op string, err error) {
	s.failWith(func(called string) error {
		if called == op {
			return err
		}
		return nil
	})
}

func (s *faulty) before(op string) error {
	s.mu.Lock()
	f := s.fail
	s.mu.Unlock()
	if f != nil {
		return f(op)
	}
	return nil
}

func (s *faulty) after(op string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[op]++
}

func (s *faulty) count(op string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[op]
}

func (s *faulty) Session(ctx context.Context, id string) (store.Session, error) {
	if err := s.before("Session"); err != nil {
		return store.Session{}, err
	}
	return s.Store.Session(ctx, id)
}

func (s *faulty) SaveSession(ctx context.Context, session store.Session) error {
	if err := s.before("SaveSession"); err != nil {
		return err
	}
	return s.Store.SaveSession(ctx, session)
}

func (s *faulty) TouchSession(ctx context.Context, id string) error {
	defer s.after("TouchSession")
	if err := s.before("TouchSession"); err != nil {
		return err
	}
	return s.Store.TouchSession(ctx, id)
}

func (s *faulty) Connect(ctx context.Context, user, socket string) (bool, error) {
	if err := s.before("Connect"); err != nil {
		return false, err
	}
	return s.Store.Connect(ctx, user, socket)
}

func (s *faulty) Disconnect(ctx context.Context, user, socket string) (bool, error) {
	defer s.after("Disconnect")
	if err := s.before("Disconnect"); err != nil {
		return false, err
	}
	return s.Store.Disconnect(ctx, user, socket)
}

func (s *faulty) Overview(ctx context.Context, b store.Box, peers, perPeer int) (store.Overview, error) {
	if err := s.before("Overview"); err != nil {
		return store.Overview{}, err
	}
	return s.Store.Overview(ctx, b, peers, perPeer)
}

func (s *faulty) CountUsers(ctx context.Context) (int, error) {
	if err := s.before("CountUsers"); err != nil {
		return 0, err
	}
	return s.Store.CountUsers(ctx)
}

func (s *faulty) Users(ctx context.Context, limit int) ([]store.User, error) {
	if err := s.before("Users"); err != nil {
		return nil, err
	}
	return s.Store.Users(ctx, limit)
}

func (s *faulty) UsersByID(ctx context.Context, ids []string) ([]store.User, error) {
	if err := s.before("UsersByID"); err != nil {
		return nil, err
	}
	return s.Store.UsersByID(ctx, ids)
}

func (s *faulty) Online(ctx context.Context, users []string) ([]bool, error) {
	if err := s.before("Online"); err != nil {
		return nil, err
	}
	online, err := s.Store.Online(ctx, users)
	if err == nil {
		err = s.before("Online answered")
	}
	return online, err
}

func (s *faulty) Append(ctx context.Context, p store.Post) (store.Receipt, error) {
	if err := s.before("Append"); err != nil {
		return store.Receipt{}, err
	}
	r, err := s.Store.Append(ctx, p)
	if err == nil {
		err = s.before("Append answered")
	}
	return r, err
}

func (s *faulty) Conversation(ctx context.Context, b store.Box, peer string, before uint64, limit int) ([]store.Entry, error) {
	if err := s.before("Conversation"); err != nil {
		return nil, err
	}
	return s.Store.Conversation(ctx, b, peer, before, limit)
}

func (s *faulty) Tail(ctx context.Context, b store.Box) (store.Offset, error) {
	if err := s.before("Tail"); err != nil {
		return store.Offset{}, err
	}
	return s.Store.Tail(ctx, b)
}

// lockedBuffer is a bytes.Buffer for many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited too long until %s", what)
		}
	}
}

// device is a client that sends and sees Engine.IO messages as they are on the wire, heartbeats aside.
type device struct {
	t      *testing.T
	frames chan string
	gone   chan struct{}          // closed when the connection has ended
	stop   chan (<-chan struct{}) // what to wait for before more is read
	send   func(frame string)
	cut    func() // drops the connection without a word

	// Of chat, once welcomed.
	sid, pid, sessionID, userID string
}

// dial opens a connection and joins nothing. query is added to the handshake's.
func (f *fixture) dial(transport, query string, header http.Header) *device {
	f.t.Helper()
	d := &device{t: f.t, frames: make(chan string, 1<<15), gone: make(chan struct{}), stop: make(chan (<-chan struct{}), 1)}
	if transport == "polling" {
		d.poll(f, query, header)
	} else {
		d.upgrade(f, query, header)
	}
	f.t.Cleanup(func() { d.cut(); <-d.gone })
	return d
}

// web is dial by WebSocket without extras.
func (f *fixture) web() *device {
	f.t.Helper()
	return f.dial("websocket", "", nil)
}

// socketHandler feeds a device from a WebSocket.
type socketHandler struct {
	gws.BuiltinEventHandler
	d *device
}

func (h *socketHandler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	select {
	case until := <-h.d.stop:
		<-until
	default:
	}
	switch frame := m.Data.String(); {
	case frame == "2":
		_ = c.WriteString("3") // fails when it is closed
	case strings.HasPrefix(frame, "4"):
		h.d.frames <- frame
	}
}

func (h *socketHandler) OnClose(*gws.Conn, error) { close(h.d.gone) }

func (d *device) upgrade(f *fixture, query string, header http.Header) {
	d.t.Helper()
	address := "ws" + strings.TrimPrefix(f.url, "http") + "/socket.io/?EIO=4&transport=websocket&" + query
	if header == nil {
		header = http.Header{}
	}
	c, res, err := gws.NewClient(&socketHandler{d: d}, &gws.ClientOption{
		Addr: address, RequestHeader: header.Clone(), ReadMaxPayloadSize: 64 << 20, HandshakeTimeout: patience,
	})
	if res != nil {
		defer res.Body.Close()
	}
	if err != nil {
		d.t.Fatal(err)
	}
	go c.ReadLoop()
	d.send = func(frame string) { _ = c.WriteString(frame) } // what was not sent is not answered
	d.cut = func() { c.NetConn().Close() }
}

func (d *device) poll(f *fixture, query string, header http.Header) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request := func(method, query, body string) (string, error) {
		r, err := http.NewRequestWithContext(ctx, method, f.url+"/socket.io/?EIO=4&transport=polling&"+query, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		if body == "" {
			r.Body = nil
		}
		for k, v := range header {
			r.Header[k] = v
		}
		res, err := f.client.Do(r)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d: %s", res.StatusCode, answer)
		}
		return string(answer), err
	}
	answer, err := request("GET", query, "")
	if err != nil {
		cancel()
		d.t.Fatal(err)
	}
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(answer, "0")), &open); err != nil {
		cancel()
		d.t.Fatalf("open packet %s: %v", answer, err)
	}
	sid := "sid=" + open.SID
	d.send = func(frame string) { _, _ = request("POST", sid, frame) }
	d.cut = func() {
		_, _ = request("POST", sid, "1") // a polling client that goes without a word is noticed by its ping timeout alone
		cancel()
	}
	go func() {
		defer close(d.gone)
		for {
			payload, err := request("GET", sid, "")
			if err != nil {
				return
			}
			for part := range strings.SplitSeq(payload, "\x1e") {
				switch {
				case part == "1":
					return
				case part == "2":
					_, _ = request("POST", sid, "3")
				case strings.HasPrefix(part, "4"):
					d.frames <- part
				}
			}
		}
	}()
}

// stall makes a device on WebSocket stop reading, with the next frame, until a channel is closed.
func (d *device) stall(until <-chan struct{}) { d.stop <- until }

// next returns the next frame.
func (d *device) next() string {
	d.t.Helper()
	select {
	case frame := <-d.frames:
		return frame
	default:
	}
	select {
	case frame := <-d.frames:
		return frame
	case <-d.gone:
		select {
		case frame := <-d.frames:
			return frame
		default:
		}
		d.t.Fatal("the connection ended, but a frame was due")
	case <-time.After(patience):
		d.t.Fatal("no frame came")
	}
	return ""
}

// expect is next, which must be that frame.
func (d *device) expect(frame string) {
	d.t.Helper()
	if got := d.next(); got != frame {
		d.t.Fatalf("got  %.1000s\nwant %.1000s", got, frame)
	}
}

// Parts of patterns.
const (
	anSID    = `([A-Za-z0-9_-]{20})`
	anOffset = `"([0-9a-z]+-\d+)"`
)

// match is next, which must fit the pattern, and returns its groups.
func (d *device) match(pattern string) []string {
	d.t.Helper()
	frame := d.next()
	groups := regexp.MustCompile("^" + pattern + "$").FindStringSubmatch(frame)
	if groups == nil {
		d.t.Fatalf("got  %.1000s\nwant %s", frame, pattern)
	}
	return groups[1:]
}

// until returns the next frame that starts so, past all others.
func (d *device) until(start string) string {
	d.t.Helper()
	for {
		if frame := d.next(); strings.HasPrefix(frame, start) {
			return frame
		}
	}
}

// expectGone waits for the end of the connection.
func (d *device) expectGone() {
	d.t.Helper()
	select {
	case <-d.gone:
	case <-time.After(patience):
		d.t.Fatal("the connection stays open")
	}
}

// ask sends an event in a namespace, and returns its acknowledgement, past all frames before it, which it
// returns as well.
func (d *device) ask(namespace, event string, arg any) (answer string, before []string) {
	d.t.Helper()
	return d.askRaw(namespace, event, encode(d.t, arg))
}

// askRaw is ask for an argument that is JSON already.
func (d *device) askRaw(namespace, event, arg string) (answer string, before []string) {
	d.t.Helper()
	prefix := ""
	if namespace != "/" {
		prefix = namespace + ","
	}
	d.send("42" + prefix + "7[" + encode(d.t, event) + "," + arg + "]")
	start := "43" + prefix + "7["
	for {
		frame := d.next()
		if rest, ok := strings.CutPrefix(frame, start); ok {
			return strings.TrimSuffix(rest, "]"), before
		}
		before = append(before, frame)
	}
}

// decode asks in chat and reads the answer.
func decode(t *testing.T, d *device, event, arg string, v any) string {
	t.Helper()
	answer, _ := d.askRaw("/", event, arg)
	if err := json.Unmarshal([]byte(answer), v); err != nil {
		t.Fatalf("%s: answered %.1000s: %v", event, answer, err)
	}
	return answer
}

// silent proves that nothing is on its way to the device: the answer to a question comes next.
func (d *device) silent() {
	d.t.Helper()
	if _, before := d.ask("/", "history", map[string]any{}); len(before) > 0 {
		d.t.Fatalf("came unexpected: %.2000s", before)
	}
}

// enter joins chat and takes the welcome.
func (d *device) enter(auth any) *device {
	d.t.Helper()
	d.send("40" + encode(d.t, auth))
	ids := d.match(`40\{"sid":"` + anSID + `","pid":"` + anSID + `"\}`)
	d.sid, d.pid = ids[0], ids[1]
	ids = d.match(`42\["session",\{"sessionID":"([^"]+)","userID":"([^"]+)"\}\]`)
	d.sessionID, d.userID = ids[0], ids[1]
	return d
}

// roster is the users event, as a client that knows the contract reads it.
func (d *device) roster() map[string]user {
	d.t.Helper()
	return readRoster(d.t, d.until(`42["users",`))
}

func readRoster(t *testing.T, frame string) map[string]user {
	t.Helper()
	var args []json.RawMessage
	if err := json.Unmarshal([]byte(frame[2:]), &args); err != nil || len(args) != 3 {
		t.Fatalf("%.1000s: %v", frame, err)
	}
	var list []user
	if err := json.Unmarshal(args[1], &list); err != nil {
		t.Fatalf("%.1000s: %v", frame, err)
	}
	users := make(map[string]user)
	for _, u := range list {
		if _, twice := users[u.UserID]; twice {
			t.Fatalf("%s is twice in the roster", u.UserID)
		}
		users[u.UserID] = u
	}
	return users
}

type user struct {
	UserID, Username string
	Connected        bool
	Messages         []message
}

type message struct {
	Content  any
	From, To string
	ID       string
	Seq      uint64
	At       int64
}

// login is a welcomed user of chat.
func (f *fixture) login(username string) *device {
	f.t.Helper()
	d := f.web().enter(map[string]string{"username": username})
	d.until(`42["users",`)
	return d
}

// tab is a further device of the same user.
func (f *fixture) tab(of *device) *device {
	f.t.Helper()
	d := f.web().enter(map[string]string{"sessionID": of.sessionID})
	d.until(`42["users",`)
	return d
}

// drop cuts a device's connection and waits until the server has counted it out.
func (f *fixture) drop(d *device) {
	f.t.Helper()
	before := f.store.count("Disconnect")
	d.cut()
	eventually(f.t, "the socket is counted out", func() bool { return f.store.count("Disconnect") > before })
}

// say sends a private message that has to be acknowledged as stored.
func (d *device) say(to, content, id string) receipt {
	d.t.Helper()
	arg := map[string]any{"content": content, "to": to}
	if id != "" {
		arg["id"] = id
	}
	answer, _ := d.ask("/", "private message", arg)
	var r receipt
	if err := json.Unmarshal([]byte(answer), &r); err != nil || r.ID == "" || r.Error.Code != "" {
		d.t.Fatalf("answered %s", answer)
	}
	return r
}

type receipt struct {
	ID    string
	Seq   uint64
	At    int64
	Error struct{ Code, Message string }
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// userEvent is the frame that tells of a user's coming.
func userEvent(id, name string) string {
	return fmt.Sprintf(`42["user connected",{"userID":%q,"username":%q,"connected":true,"messages":[]}]`, id, name)
}
