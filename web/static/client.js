// The Socket.IO client of this page, in one module and with nothing else. It speaks Engine.IO protocol 4 over one
// WebSocket, and Socket.IO protocol 5 in any number of namespaces on it.
//
//   const connection = new Connection("/socket.io/");
//   const chat = connection.of("/", () => ({ username: "alice" })); // asked at every attempt
//   chat.on("connect", ({ recovered }) => …);                       // also "disconnect" and "connect_error"
//   chat.on("private message", (message) => …);
//   chat.connect();
//   const { seq } = await chat.request("private message", { id, to, content });
//
// A connection that breaks comes back by itself, later and later, and never all clients at once. When it is back, the
// server sends what was missed meanwhile (connection state recovery), and only then "connect" is told.

// How long the server may take to answer a connection.
const CONNECT_MS = 20_000;
// And a request.
const ACK_MS = 10_000;
// How long until the first attempt to come back, and the longest that it gets.
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 15_000;
// A connection that lasted so long was a good one.
const STABLE_MS = 5_000;

/** What a request fails with when the connection is not there, or went before the answer came. */
export class Disconnected extends Error {}

/** What a request fails with when no answer came in time. */
export class TimedOut extends Error {}

/** Something that tells its listeners what happens. */
export class Emitter {
  // event name -> functions
  #listeners = new Map();

  on(event, listener) {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
  }

  tell(event, ...args) {
    for (const listener of this.#listeners.get(event) ?? []) listener(...args);
  }
}

/** One WebSocket, open as long as one of its sockets wants to be connected. Tells "change". */
export class Connection extends Emitter {
  // When the next attempt is made, in ms since 1970; 0 if none is waited for.
  retryAt = 0;

  #url;
  // namespace -> socket between its connect() and disconnect()
  #wanted = new Map();
  #ws = null;
  // When the server's first packet came; 0 until then.
  #openedAt = 0;
  #retries = 0;
  // Timer: the next attempt.
  #timer = 0;
  // Timer: the next thing the server must do.
  #deadline = 0;
  // How long the server may be silent: ping interval and timeout, once known.
  #patience = CONNECT_MS;

  constructor(path) {
    super();
    this.#url = new URL(path, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#url.search = "EIO=4&transport=websocket";
    addEventListener("online", () => this.retry());
    // The network may be gone, or only another one: trying again will tell.
    addEventListener("offline", () => this.abandon("network lost"));
  }

  /** Returns the socket of a namespace. auth returns what the socket shows at the door. */
  of(namespace, auth) {
    return new Socket(this, namespace, auth);
  }

  /** Makes the next attempt now. */
  retry() {
    if (this.#wanted.size > 0 && !this.#ws) this.#dial();
  }

  /** For Socket: takes it on. */
  add(socket) {
    this.#wanted.set(socket.namespace, socket);
    if (this.#openedAt) socket.opened();
    else this.retry();
  }

  /** For Socket: lets it go, and closes when it was the last. */
  remove(socket) {
    if (this.#wanted.get(socket.namespace) === socket) this.#wanted.delete(socket.namespace);
    if (this.#wanted.size > 0) return;
    clearTimeout(this.#timer);
    this.retryAt = this.#retries = 0;
    this.abandon("no longer needed");
  }

  /** For Socket: sends an Engine.IO message. */
  write(text) {
    this.#ws.send(`4${text}`);
  }

  #dial() {
    clearTimeout(this.#timer);
    this.retryAt = 0;
    const ws = (this.#ws = new WebSocket(this.#url));
    this.#expect(CONNECT_MS);
    // A WebSocket that was given up may still speak: it is no longer heard.
    ws.onmessage = ({ data }) => ws === this.#ws && this.#receive(data);
    ws.onclose = () => ws === this.#ws && this.abandon("connection lost");
    this.tell("change");
  }

  #expect(milliseconds) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.abandon("server silent"), milliseconds);
  }

  // An Engine.IO packet: one character that says which, then its data.
  #receive(data) {
    // An attachment; the events of this page have none.
    if (typeof data !== "string") return;
    const body = data.slice(1);
    switch (data[0]) {
      // Open: the server says how often it pings.
      case "0": {
        const { pingInterval, pingTimeout } = JSON.parse(body);
        this.#patience = pingInterval + pingTimeout;
        this.#openedAt = Date.now();
        this.#expect(this.#patience);
        for (const socket of this.#wanted.values()) socket.opened();
        break;
      }
      // Close.
      case "1":
        this.abandon("server closed");
        break;
      // Ping: it alone shows that the server is alive.
      case "2":
        this.#ws.send("3");
        this.#expect(this.#patience);
        break;
      case "4":
        this.#packet(body);
    }
  }

  // A Socket.IO packet: type, number of attachments, namespace, id of an acknowledgement, JSON.
  #packet(text) {
    const [, type, namespace, id, json] = /^(\d)(?:\d+-)?(?:(\/[^,]*),?)?(\d*)(.*)$/s.exec(text);
    this.#wanted.get(namespace ?? "/")?.packet(type, Number(id), json ? JSON.parse(json) : undefined);
  }

  /** The WebSocket is gone, or given up: tells all sockets, and comes back if one of them wants to. */
  abandon(reason) {
    const ws = this.#ws;
    if (!ws) return;
    this.#ws = null;
    clearTimeout(this.#deadline);
    ws.close();
    if (this.#openedAt && Date.now() - this.#openedAt > STABLE_MS) this.#retries = 0;
    this.#openedAt = 0;
    for (const socket of [...this.#wanted.values()]) socket.lost(reason);
    if (this.#wanted.size > 0 && !this.#ws) {
      // Twice as long each time, and half of it is chance.
      const wait = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#retries++) * (0.5 + Math.random() / 2);
      this.#timer = setTimeout(() => this.#dial(), wait);
      this.retryAt = Date.now() + wait;
    }
    this.tell("change");
  }
}

/** This client in one namespace. Tells the server's events, and "connect", "disconnect", "connect_error". */
export class Socket extends Emitter {
  connected = false;
  namespace;

  #connection;
  #auth;
  // How the namespace is written in a packet.
  #prefix;
  // Timer: the answer to CONNECT.
  #deadline = 0;
  // Events that came before that answer: what recovery replays.
  #early = [];
  // id of a request -> {resolve, reject, timer}
  #acks = new Map();
  #nextAck = 0;
  // For recovery: the server's private name for this client,
  #pid = "";
  // and which event was the last.
  #offset = "";

  constructor(connection, namespace, auth) {
    super();
    this.#connection = connection;
    this.#auth = auth;
    this.namespace = namespace;
    this.#prefix = namespace === "/" ? "" : `${namespace},`;
  }

  connect() {
    this.#connection.add(this);
  }

  /** Leaves for good: the server forgets what it kept for recovery. */
  disconnect() {
    if (this.connected) this.#connection.write(`1${this.#prefix}`);
    this.#leave("client left");
  }

  /** Sends an event for which no answer is needed, if it can be sent now. */
  send(event, data) {
    if (this.connected) this.#connection.write(`2${this.#prefix}${JSON.stringify([event, data])}`);
  }

  /** Sends an event and waits for the server's answer to it: the first argument of the acknowledgement. */
  request(event, data) {
    if (!this.connected) return Promise.reject(new Disconnected("not connected"));
    return new Promise((resolve, reject) => {
      const id = this.#nextAck++;
      const timer = setTimeout(() => this.#settle(id, () => reject(new TimedOut("the server did not answer"))), ACK_MS);
      this.#acks.set(id, { resolve, reject, timer });
      this.#connection.write(`2${this.#prefix}${id}${JSON.stringify([event, data])}`);
    });
  }

  /** For Connection: the WebSocket is open. Asks to be let in, and for what was missed since #offset. */
  opened() {
    const auth = { ...this.#auth() };
    if (this.#pid && this.#offset) Object.assign(auth, { pid: this.#pid, offset: this.#offset });
    this.#connection.write(`0${this.#prefix}${JSON.stringify(auth)}`);
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#connection.abandon("server silent"), CONNECT_MS);
  }

  /** For Connection: a packet of this namespace came. */
  packet(type, id, data) {
    switch (type) {
      // CONNECT.
      case "0":
        this.#welcome(data);
        break;
      // DISCONNECT: the server wants this client to stay away.
      case "1":
        this.#leave("ended by the server");
        break;
      // EVENT and BINARY_EVENT.
      case "2":
      case "5":
        if (!data) break;
        if (this.connected) this.#event(data);
        else this.#early.push(data);
        break;
      // ACK.
      case "3":
        this.#settle(id, ({ resolve }) => resolve(data?.[0]));
        break;
      // CONNECT_ERROR: trying again by itself would not help.
      case "4":
        this.#leave("refused");
        this.tell("connect_error", data);
    }
  }

  /** For Connection: the WebSocket is gone; another will be opened. */
  lost(reason) {
    this.#gone(reason, true);
  }

  #welcome({ pid = "" }) {
    clearTimeout(this.#deadline);
    const recovered = pid !== "" && pid === this.#pid;
    if (!recovered) this.#offset = "";
    this.#pid = pid;
    this.connected = true;
    const early = this.#early;
    this.#early = [];
    // What was missed comes first, so that listeners of "connect" find everything in place.
    for (const event of early) this.#event(event);
    // Unless a listener left.
    if (this.connected) this.tell("connect", { recovered });
  }

  #event([name, ...args]) {
    const last = args.at(-1);
    if (typeof last === "string") this.#offset = last;
    this.tell(name, ...args);
  }

  #settle(id, how) {
    const ack = this.#acks.get(id);
    if (!ack) return;
    this.#acks.delete(id);
    clearTimeout(ack.timer);
    how(ack);
  }

  #leave(reason) {
    this.#pid = this.#offset = "";
    this.#connection.remove(this);
    this.#gone(reason, false);
  }

  #gone(reason, returning) {
    clearTimeout(this.#deadline);
    const was = this.connected;
    this.connected = false;
    this.#early = [];
    for (const id of [...this.#acks.keys()]) this.#settle(id, ({ reject }) => reject(new Disconnected(reason)));
    if (was) this.tell("disconnect", { reason, returning });
  }
}
