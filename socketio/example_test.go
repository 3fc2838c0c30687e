package socketio_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/lxzan/gws"

	"parley/socketio"
)

// said is what a client says. A Validate method makes sure that the handler gets nothing else.
type said struct {
	Text string `json:"text"`
}

func (s said) Validate() error {
	if s.Text == "" {
		return errors.New("text is missing")
	}
	return nil
}

// receipt is what the client is answered with.
type receipt struct {
	Heard bool `json:"heard"`
}

// A chat room in which each client hears what the others say, and the first lines of a conversation with it as
// they are on the wire.
func Example() {
	server, err := socketio.NewServer(socketio.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	chat := server.Of("/chat")
	chat.Use(func(_ context.Context, s *socketio.Socket) error {
		if s.Handshake().Query().Get("name") == "" {
			return &socketio.Error{Code: "unauthorized", Message: "who are you?"}
		}
		return nil
	})
	chat.OnConnection(func(_ context.Context, s *socketio.Socket) {
		if err := errors.Join(s.Join("lobby"), s.Emit("joined")); err != nil {
			s.Disconnect(true)
		}
	})
	socketio.OnAck(chat, "say", func(_ context.Context, s *socketio.Socket, m said) (receipt, error) {
		return receipt{Heard: true}, s.To("lobby").Emit("said", s.Handshake().Query().Get("name"), m)
	})

	mux := http.NewServeMux()
	mux.Handle("/socket.io/", server)
	listener := httptest.NewServer(mux) // or http.ListenAndServe
	defer listener.Close()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			fmt.Println(err)
		}
	}()

	ann, bob := dialExample(listener.URL, "ann"), dialExample(listener.URL, "bob")
	ann.say(`42/chat,1["say",{"text":"hello"}]`)
	fmt.Println("ann:", <-ann.heard)
	fmt.Println("bob:", <-bob.heard)
	ann.say(`42/chat,2["say",{}]`)
	fmt.Println("ann:", <-ann.heard)
	// Output:
	// ann: 43/chat,1[{"heard":true}]
	// bob: 42/chat,["said","ann",{"text":"hello"}]
	// ann: 43/chat,2[{"error":{"code":"bad_argument","message":"text is missing"}}]
}

// exampleClient stands for a Socket.IO client in any language.
type exampleClient struct {
	gws.BuiltinEventHandler
	conn  *gws.Conn
	heard chan string
}

func (c *exampleClient) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	c.heard <- m.Data.String()
}

func (c *exampleClient) say(text string) {
	if err := c.conn.WriteString(text); err != nil {
		fmt.Println(err)
	}
}

// dialExample connects a client to /chat.
func dialExample(url, name string) *exampleClient {
	c := &exampleClient{heard: make(chan string, 10)}
	addr := "ws" + strings.TrimPrefix(url, "http") + "/socket.io/?EIO=4&transport=websocket&name=" + name
	conn, res, err := gws.NewClient(c, &gws.ClientOption{Addr: addr})
	if err != nil {
		fmt.Println(err)
		return c
	}
	defer res.Body.Close() // is empty
	c.conn = conn
	go c.conn.ReadLoop() // ends with the connection
	<-c.heard            // the open packet
	c.say("40/chat,")
	<-c.heard // the answer to CONNECT, which goes out before the connection listeners run
	<-c.heard // joined
	return c
}
