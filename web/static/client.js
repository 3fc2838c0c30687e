// A Socket.IO client in one module: one WebSocket, the namespace "/", events with acknowledgements, recovery of
// what was missed, and reconnection. It speaks Engine.IO protocol 4 and Socket.IO protocol 5.
//
//   const socket = new Socket("/socket.io/", () => ({ username: "alice" }));
//   socket.on("connect", ({ recovered }) => …);      // also "disconnect" and "connect_error"
//   socket.on("private message", (message) => …);
//   const { seq } = await socket.request("private message", { id, to, content });
//   socket.connect();

const CONNECT_MS = 20_000; // for the server to answer a connection
const ACK_MS = 10_000; // for the server to answer a request
const RETRY_FIRST_MS = 500;
const RETRY_MAX_MS = 10_000;

/** What a request fails with when the connection is not there, or went before the answer came. */
export class Disconnected extends Error {}

/** What a request fails with when no answer came in time. */
export class TimedOut extends Error {}

export class Socket {
  connected = false;

  #url;
  #auth; // function that returns what to show at the door, asked on every attempt
  #listeners = new Map(); // event name -> functions
  #wanted = false; // between connect() and disconnect()
  #ws = null;
  #retries = 0;
  #retryTimer = 0;
  #deadline = 0; // timer: the next thing the server must do
  #patience = CONNECT_MS; // how long the server may be silent: ping interval and timeout, once known
  #early = []; // events that came before the answer to CONNECT: what recovery replays
  #acks = new Map(); // id of a request -> {resolve, reject, timer}
  #nextAck = 0;
  #pid = ""; // the server's private name for this client, for recovery
  #offset = ""; // which event was the last

  constructor(path, auth) {
    this.#url = new URL(path, location.href);
    this.#url.protocol = this.#url.protocol.replace("http", "ws");
    this.#url.search = "EIO=4&transport=websocket";
    this.#auth = auth;
    addEventListener("online", () => this.#wanted && !this.#ws && this.#open());
  }

  on(event, listener) {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
  }

  connect() {
    if (this.#wanted) return;
    this.#wanted = true;
    this.#open();
  }

  /** Leaves for good: the server forgets what it kept for recovery. */
  disconnect() {
    this.#wanted = false;
    clearTimeout(this.#retryTimer);
    if (this.connected) this.#ws.send("41");
    this.#pid = this.#offset = "";
    this.#gone("client left");
  }

  /** Sends an event and waits for the server's answer to it: the first argument of the acknowledgement. */
  request(event, data) {
    if (!this.connected) return Promise.reject(new Disconnected("not connected"));
    return new Promise((resolve, reject) => {
      const id = this.#nextAck++;
      const timer = setTimeout(() => {
        this.#acks.delete(id);
        reject(new TimedOut("the server did not answer"));
      }, ACK_MS);
      this.#acks.set(id, { resolve, reject, timer });
      this.#ws.send(`42${id}${JSON.stringify([event, data])}`);
    });
  }

  #open() {
    clearTimeout(this.#retryTimer);
    const ws = (this.#ws = new WebSocket(this.#url));
    this.#expect(CONNECT_MS);
    // A socket that was given up may still speak: it is no longer heard.
    ws.onmessage = ({ data }) => ws === this.#ws && this.#receive(data);
    ws.onclose = () => ws === this.#ws && this.#gone("connection lost");
  }

  #expect(milliseconds) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#gone("server silent"), milliseconds);
  }

  // An Engine.IO packet: one character that says which, then its data.
  #receive(data) {
    if (typeof data !== "string") return; // an attachment; the events of this page have none
    const body = data.slice(1);
    switch (data[0]) {
      case "0": { // open
        const { pingInterval, pingTimeout } = JSON.parse(body);
        this.#patience = pingInterval + pingTimeout;
        const auth = { ...this.#auth() };
        if (this.#pid && this.#offset) Object.assign(auth, { pid: this.#pid, offset: this.#offset });
        this.#ws.send(`40${JSON.stringify(auth)}`);
        break;
      }
      case "1": // close
        this.#gone("server closed");
        break;
      case "2": // ping: once connected, it alone shows that the server is alive
        this.#ws.send("3");
        if (this.connected) this.#expect(this.#patience);
        break;
      case "4":
        this.#packet(body);
    }
  }

  // A Socket.IO packet: type, number of attachments, namespace, id of an acknowledgement, JSON.
  #packet(text) {
    const [, type, namespace, id, json] = /^(\d)(?:\d+-)?(?:(\/[^,]*),?)?(\d*)(.*)$/s.exec(text);
    if (namespace && namespace !== "/") return;
    const data = json ? JSON.parse(json) : undefined;
    switch (type) {
      case "0": // CONNECT
        this.#welcome(data);
        break;
      case "1": // DISCONNECT: the server wants this client to stay away
        this.#wanted = false;
        this.#pid = this.#offset = "";
        this.#gone("ended by the server");
        break;
      case "2": // EVENT
      case "5": // BINARY_EVENT
        if (!data) break;
        if (this.connected) this.#event(data);
        else this.#early.push(data);
        break;
      case "3": // ACK
        this.#settle(Number(id), ({ resolve }) => resolve(data?.[0]));
        break;
      case "4": // CONNECT_ERROR: trying again by itself would not help
        this.#wanted = false;
        this.#gone("refused at the door");
        this.#emit("connect_error", data);
    }
  }

  #welcome({ pid = "" }) {
    const recovered = pid !== "" && pid === this.#pid;
    if (!recovered) this.#offset = "";
    this.#pid = pid;
    this.#retries = 0;
    this.#expect(this.#patience);
    const early = this.#early;
    this.#early = [];
    // What was missed comes first, so that listeners of "connect" find everything in place.
    for (const event of early) this.#event(event);
    if (!this.#ws) return; // a listener left
    this.connected = true;
    this.#emit("connect", { recovered });
  }

  #event([name, ...args]) {
    const last = args.at(-1);
    if (typeof last === "string") this.#offset = last;
    this.#emit(name, ...args);
  }

  #emit(event, ...args) {
    for (const listener of this.#listeners.get(event) ?? []) listener(...args);
  }

  #settle(id, how) {
    const ack = this.#acks.get(id);
    if (!ack) return;
    this.#acks.delete(id);
    clearTimeout(ack.timer);
    how(ack);
  }

  // The connection is gone, or given up: tell everybody who waits, and come back unless told not to.
  #gone(reason) {
    const ws = this.#ws;
    this.#ws = null;
    clearTimeout(this.#deadline);
    ws?.close();
    const was = this.connected;
    this.connected = false;
    this.#early = [];
    for (const id of [...this.#acks.keys()]) {
      this.#settle(id, ({ reject }) => reject(new Disconnected(reason)));
    }
    if (this.#wanted) {
      // Twice as long each time, and never two clients at once: half of it is chance.
      const wait = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** this.#retries++);
      this.#retryTimer = setTimeout(() => this.#open(), wait * (0.5 + Math.random() / 2));
    }
    if (was || !this.#wanted) this.#emit("disconnect", { reason, returning: this.#wanted });
  }
}
