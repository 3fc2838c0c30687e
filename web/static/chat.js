// What a chat knows: who is there and what was said, kept right by the server's events. It draws nothing;
// the page is told that something changed, and reads it from here.

import { Disconnected, Socket } from "./client.js";

const PAGE = 50; // messages of history asked for at a time
const STORED = "sessionID"; // key in localStorage

export class Chat extends EventTarget {
  self = ""; // this user's id, once known
  state = "out"; // "out" (not signed in), "connecting", "online", "offline" (coming back by itself)
  problem = ""; // why the state is "out", for people
  people = new Map(); // user id -> {userID, username, connected, messages, unread, complete, loading}
  selected = ""; // user id of the open conversation

  #socket = new Socket("/socket.io/", () => this.#auth());
  #username = "";
  #resuming = false;

  constructor() {
    super();
    const on = (event, listener) => {
      this.#socket.on(event, (...args) => {
        listener(...args);
        this.#changed();
      });
    };
    on("connect", () => this.#connected());
    on("disconnect", ({ returning }) => {
      this.state = returning ? "offline" : "out";
      if (!returning && !this.problem) this.problem = "The server has ended this session.";
    });
    on("connect_error", (error) => this.#refused(error));
    on("session", ({ sessionID, userID }) => {
      localStorage.setItem(STORED, sessionID);
      if (this.self !== userID) this.people.clear();
      this.self = userID;
    });
    on("users", (users) => this.#roster(users));
    on("user connected", ({ userID, username }) => {
      Object.assign(this.#person(userID), { username, connected: true });
    });
    on("user disconnected", (userID) => {
      if (this.people.has(userID)) this.people.get(userID).connected = false;
    });
    on("private message", (message) => this.#arrived(message));
  }

  /** Signs in with the session of an earlier visit; false when there is none. */
  resume() {
    if (!this.resumable) return false;
    this.#start();
    return true;
  }

  /** Tells whether resume would find a session. */
  get resumable() {
    return Boolean(localStorage.getItem(STORED));
  }

  signIn(username) {
    localStorage.removeItem(STORED);
    this.#username = username;
    this.#start();
  }

  signOut() {
    localStorage.removeItem(STORED);
    this.#socket.disconnect();
    this.people.clear();
    this.self = this.selected = this.problem = this.#username = "";
    this.#changed();
  }

  select(userID) {
    this.selected = userID;
    if (this.people.has(userID)) this.people.get(userID).unread = 0;
    this.#changed();
  }

  /** Sends a text. Its id is chosen here, so that sending it again can never double it. */
  send(to, content) {
    const message = { id: randomID(), content, from: this.self, to, at: Date.now(), state: "pending" };
    this.#person(to).messages.push(message);
    this.#deliver(message);
    this.#changed();
  }

  retry(message) {
    message.state = "pending";
    message.reason = "";
    this.#deliver(message);
    this.#changed();
  }

  /** Loads the page of history before the oldest message that is here. */
  async older(userID) {
    const person = this.people.get(userID);
    if (!person || person.loading || person.complete) return;
    person.loading = true;
    this.#changed();
    try {
      const before = person.messages.find((m) => m.seq)?.seq ?? 0;
      const answer = await this.#socket.request("history", { with: userID, before, limit: PAGE });
      if (!answer?.messages) throw new Error(answer?.error?.message);
      person.complete = !answer.more;
      merge(person, answer.messages);
    } catch {
      // The button is still there to be pressed again.
    } finally {
      person.loading = false;
      this.#changed();
    }
  }

  #start() {
    this.problem = "";
    this.state = "connecting";
    this.#socket.connect();
    this.#changed();
  }

  #auth() {
    const sessionID = localStorage.getItem(STORED);
    this.#resuming = Boolean(sessionID);
    return sessionID ? { sessionID } : { username: this.#username };
  }

  #connected() {
    this.state = "online";
    // What had no answer when the connection broke is sent again, in the order in which it was written.
    for (const person of this.people.values()) {
      for (const message of person.messages) if (message.state === "pending") this.#deliver(message);
    }
  }

  #refused(error) {
    this.state = "out";
    const expired = this.#resuming && error?.message === "invalid username";
    if (expired) localStorage.removeItem(STORED);
    this.problem = expired ? "Your session has expired: sign in again." : `The server refused: ${error?.message ?? "no reason given"}`;
  }

  #roster(users) {
    for (const { userID, username, connected, messages } of users) {
      const person = this.#person(userID);
      Object.assign(person, { username, connected });
      // The newest page may not reach back to what is here. Rather than show a hole, what is older goes; the history
      // brings it back.
      const oldest = Math.min(...messages.map(number));
      const newest = Math.max(...person.messages.filter((m) => m.state === "sent").map((m) => m.seq ?? 0));
      if (newest < oldest) {
        person.messages = person.messages.filter((m) => m.state !== "sent");
        person.complete = false;
      }
      merge(person, messages);
    }
  }

  #arrived(message) {
    const person = this.#person(message.from === this.self ? message.to : message.from);
    merge(person, [message]);
    const seen = person.userID === this.selected && !document.hidden;
    if (message.from !== this.self && !seen) person.unread++;
  }

  async #deliver(message) {
    try {
      const { id, to, content } = message;
      const answer = await this.#socket.request("private message", { id, to, content });
      if (answer?.error) throw new Error(answer.error.message);
      message.state = "sent";
      Object.assign(message, { seq: answer?.seq, at: answer?.at ?? message.at });
      this.#person(to).messages.sort(order);
    } catch (error) {
      if (error instanceof Disconnected) return; // still pending: sent again on return
      message.state = "failed";
      message.reason = error.message;
    }
    this.#changed();
  }

  // Somebody who is not in the list yet may write all the same: the list has a limit.
  #person(userID) {
    if (!this.people.has(userID)) {
      this.people.set(userID, { userID, username: userID, connected: false, messages: [], unread: 0, complete: false, loading: false });
    }
    return this.people.get(userID);
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// merge adds what the server says to a conversation: each message once, in the order of the numbers. Messages
// that are only here (pending, failed) stay.
function merge(person, incoming) {
  const known = new Map(person.messages.map((m) => [key(m), m]));
  for (const message of incoming) {
    const here = known.get(key(message)) ?? {};
    if (!here.from) person.messages.push(here);
    known.set(key(message), Object.assign(here, message, { state: "sent" }));
  }
  person.messages.sort(order);
}

// A message's id is chosen by its sender, so it says which one only together with the sender.
const key = (m) => (m.id ? `${m.from} ${m.id}` : m);

// What has no number yet was written last.
const number = (m) => m.seq ?? Infinity;
const order = (a, b) => number(a) - number(b) || 0; // two without a number: NaN, and they stay as they are

// crypto.randomUUID is not there on plain HTTP from another machine.
const randomID = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
