// What this device knows of the chat: who is there, what was said, what has been read, kept right by the server's events.
// It draws nothing; the page is told what changed, and reads it from here.

import { Disconnected, Emitter, TimedOut } from "./client.js";
import * as keep from "./keep.js";
import { t } from "./texts.js";

// Messages of history asked for at a time.
const PAGE = 100;
// What arrives within this time is marked as received at once.
const MARK_MS = 400;
// Nobody types longer than this, whatever they said.
const TYPING_MS = 6_000;
// Until what the server could not store is sent again. It doubles each time, up to a limit.
const RETRY_MS = 2_000;
const RETRY_MAX_MS = 20_000;
const HEALTH_MS = 30_000;

// Tells "change" (person), "reset" when everybody may have changed, and "arrived" (person, message) for what somebody
// else has just written.
export const news = new Emitter();
/** This user's id, once known. */
export let self = "";
/** "out" (not signed in), "connecting", "online", or "offline" (coming back by itself). */
export let state = "out";
/** Why the state is "out", for people. */
export let problem = "";
/** A name is not enough here. */
export let needsToken = false;
/** The token of this user, or null in open mode. */
export let token = null;
/** user id -> person, see meet */
export const people = new Map();

let socket;
let username = "";
// To come back as the same user.
let sessionID = "";
// Between the roster and the end of the connection.
let ready = false;
// The messages that are not stored yet, in the order in which they are to be sent.
let queue = [];
let pumping = false;
// The server could not store something; it says itself that it is unwell.
let stuck = false;
let unwell = false;
// Those whose messages are to be marked as received.
const received = new Set();
let markTimer;
// Whom this user types to, and when the server was told.
let typingTo = "";
let typingAt = 0;

/** Starts the chat, in the namespace "/". */
export function start(connection) {
  socket = connection.of("/", () => ({ extras: true, ...(sessionID ? { sessionID } : { username }), ...(token && { token }) }));
  const on = (event, listener) => socket.on(event, listener);
  on("connect", checkHealth);
  on("disconnect", disconnected);
  on("connect_error", refused);
  on("session", welcomed);
  on("users", roster);
  on("user connected", (user) => changed(meet(user)));
  on("user disconnected", (userID) => {
    if (people.has(userID)) changed(meet({ userID, connected: false, lastSeen: Date.now() }));
  });
  on("private message", arrived);
  on("typing", ({ from, typing }) => people.has(from) && types(people.get(from), typing));
  on("marked", (mark) => marked(meet({ userID: mark.with }), mark));
  on("receipt", ({ from, ...receipt }) => changed(meet({ userID: from, receipt })));
  keep.onSignOut(signOut);
  setInterval(checkHealth, HEALTH_MS);
}

/** Tells that the server has trouble, though it is there. */
export const degraded = () => state === "online" && (stuck || unwell);

/** Whether resume can work: there is a token, or a session of an earlier visit. */
export const resumable = () => Boolean(keep.token() || keep.session());

/** How many messages are not stored yet. */
export const unsent = () => queue.length;

export function resume() {
  token = keep.token();
  sessionID = keep.session()?.sessionID ?? "";
  enter();
}

export function signIn(name) {
  sessionID = "";
  username = name;
  enter();
}

export function signInWith(newToken) {
  keep.keepToken((token = newToken));
  enter();
}

/** Leaves, and forgets this user on this device. */
export function signOut() {
  keep.forget(self);
  token = null;
  needsToken = false;
  username = "";
  become("");
  out("");
  socket.disconnect();
}

/** When the token runs out, in ms since 1970; Infinity when that is not known. */
export function expires() {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).exp * 1000 || Infinity;
  } catch {
    return Infinity;
  }
}

/** Goes on with another token of the same user. */
export async function renew(newToken) {
  await ask("refresh", { token: newToken });
  keep.keepToken((token = newToken));
}

/** Sends a text. Its id is chosen here, so that sending it again can never double it. */
export function send(to, content) {
  typing(to, false);
  retry({ id: randomID(), content, from: self, to, at: Date.now() });
}

/** Sends a message that failed once more. */
export function retry(message) {
  message.state = "waiting";
  message.reason = "";
  keep.keepWaiting(self, message);
  enqueue(message);
}

/** Gives up a message that failed. */
export function discard(message) {
  keep.dropWaiting(self, message.id);
  const person = people.get(message.to);
  person.known.delete(key(message));
  person.messages = person.messages.filter((m) => m !== message);
  changed(person);
}

/** Tells the other that this user types, or no longer does. */
export function typing(to, typing) {
  const same = typingTo === to;
  if (typing ? same && Date.now() - typingAt < TYPING_MS / 2 : !same) return;
  typingTo = typing ? to : "";
  typingAt = Date.now();
  if (to !== self) socket.send("typing", { to, typing });
}

/** The reader has seen all messages of a conversation that are here. */
export async function seen(person) {
  const seq = newestFrom(person);
  const before = person.read;
  if (!ready || person.userID === self || seq <= before) return;
  person.read = seq;
  try {
    marked(person, await ask("mark", { with: person.userID, seq, read: true }));
  } catch {
    // The change makes whoever looks at it try again; after a new connection the roster has the truth.
    setTimeout(() => {
      person.read = Math.min(person.read, before);
      changed(person);
    }, RETRY_MS);
  }
}

/** How far a message of this user is: "waiting", "sending", "failed", "sent" (durable), "delivered" or "read". */
export function progress({ state, to, at }) {
  const { receipt } = people.get(to);
  if (state !== "stored") return state;
  return to === self || at > receipt.received ? "sent" : at > receipt.read ? "delivered" : "read";
}

/** Loads the page of history before the oldest message that is here. */
export async function older(person) {
  if (person.loading || person.complete || !ready) return;
  person.loading = true;
  changed();
  try {
    const before = person.messages.find((m) => m.seq)?.seq ?? 0;
    const { messages, more } = await ask("history", { with: person.userID, before, limit: PAGE });
    person.complete = !more;
    merge(person, messages);
  } catch {
    // Scrolling on asks again.
  }
  person.loading = false;
  changed();
}

/** Asks the server for users whose name begins with a text. They join the list. */
export async function search(prefix) {
  const { users } = await ask("users:search", { prefix, limit: 50 }).catch(() => ({ users: [] }));
  for (const user of users) changed(meet(user));
}

// Asks the server. Fails with what it refused.
async function ask(event, data) {
  const answer = await socket.request(event, data);
  if (answer?.error) throw answer.error;
  return answer ?? {};
}

function changed(person) {
  news.tell("change", person);
}

function enter() {
  problem = "";
  state = "connecting";
  socket.connect();
  news.tell("reset");
}

// "session" is the first that the server says: who this is.
function welcomed(session) {
  keep.keepSession({ sessionID: session.sessionID, userID: session.userID });
  if (self !== session.userID) become(session.userID);
  sessionID = session.sessionID;
}

function become(userID) {
  self = userID;
  sessionID = "";
  people.clear();
  received.clear();
  queue = [];
  unwell = false;
}

function disconnected({ returning }) {
  ready = stuck = false;
  for (const message of queue) message.state = "waiting";
  for (const person of people.values()) person.typing = false;
  if (!returning) {
    needsToken ||= Boolean(token);
    return state !== "out" && out(t.expired);
  }
  state = "offline";
  news.tell("reset");
}

function refused(error) {
  const message = error?.message ?? "";
  if (error?.data?.code === "unauthorized" || message.includes("token")) {
    needsToken = true;
    out(token ? t.expired : t.needsToken);
    keep.keepToken((token = null));
  } else if (sessionID && message === "invalid username") {
    keep.forget(self || keep.session()?.userID);
    become("");
    out(t.expired);
  } else out(t.refused(message));
}

function out(why) {
  state = "out";
  problem = why;
  ready = false;
  news.tell("reset");
}

function roster(users) {
  for (const { messages, ...user } of users) {
    const person = meet(user);
    person.read = user.read ?? 0;
    received.add(person);
    if (messages.length === 0) continue;
    // The newest page may not reach back to what is here, or its numbers may have begun anew. Rather than show a hole,
    // what is here goes; the history brings it back.
    const newest = person.messages.findLast((m) => m.seq)?.seq ?? 0;
    if (newest < messages[0].seq || newest > messages.at(-1).seq) {
      person.messages = person.messages.filter((m) => m.state !== "stored");
      person.known = new Map(person.messages.map((m) => [key(m), m]));
      person.complete = false;
    }
    merge(person, messages);
  }
  // What was written before a reload, or in a tab that has been closed, waits for this one to send it.
  for (const kept of keep.waiting(self)) enqueue({ ...kept, from: self, state: kept.reason ? "failed" : "waiting" });
  state = "online";
  ready = true;
  markSoon();
  pump();
  news.tell("reset");
}

function arrived(message) {
  const mine = message.from === self;
  const person = meet({ userID: mine ? message.to : message.from });
  const isNew = merge(person, [message]);
  if (mine) {
    // Another tab may have sent it in our place.
    keep.dropWaiting(self, message.id);
  } else if (isNew) {
    person.typing = false;
    person.unread = Math.min(100, person.unread + 1);
    received.add(person);
    markSoon();
    news.tell("arrived", person, message);
  }
  changed(person);
}

function types(person, typing) {
  clearTimeout(person.timer);
  person.typing = typing;
  if (typing) person.timer = setTimeout(() => types(person, false), TYPING_MS);
  changed(person);
}

// This or another device has read up to a number. The answer may be older than what has come since.
function marked(person, { read = 0, unread = 0 }) {
  person.read = Math.max(person.read, read);
  const here = person.messages.filter((m) => m.from === person.userID && m.seq > person.read).length;
  person.unread = Math.min(100, Math.max(here, unread));
  changed(person);
}

function markSoon() {
  markTimer ??= setTimeout(async () => {
    for (const person of received) {
      received.delete(person);
      const seq = newestFrom(person);
      if (person.userID === self || seq <= Math.max(person.received, person.read)) continue;
      person.received = seq;
      await ask("mark", { with: person.userID, seq, read: false }).catch(() => (person.received = 0));
    }
    markTimer = null;
  }, MARK_MS);
}

function enqueue(message) {
  const person = meet({ userID: message.to });
  const known = person.known.get(key(message));
  if (known && known !== message) {
    if (known.state === "stored") keep.dropWaiting(self, message.id);
    return;
  }
  person.known.set(key(message), message);
  if (!known) person.messages.push(message);
  if (message.state === "waiting") queue.push(message);
  changed(person);
  pump();
}

// Sends what waits, one after the other: the order in which it was written is the order in which it is stored.
async function pump() {
  if (pumping) return;
  pumping = true;
  let wait = RETRY_MS;
  while (ready && queue.length > 0) {
    const [message] = queue;
    const { id, to, content } = message;
    const user = self;
    const turn = (state) => {
      message.state = state;
      if (people.has(to)) changed(people.get(to));
    };
    try {
      if (message.state !== "stored") {
        turn("sending");
        const { seq, at } = await ask("private message", { id, to, content });
        Object.assign(message, { seq, at });
        people.get(to)?.messages.sort(order);
        turn("stored");
      }
      keep.dropWaiting(user, id);
    } catch (error) {
      // It waits for the next connection.
      if (error instanceof Disconnected) break;
      if (error instanceof TimedOut || ["unavailable", "rate_limited"].includes(error.code)) {
        stuck = true;
        turn("waiting");
        await new Promise((resolve) => setTimeout(resolve, wait));
        wait = Math.min(2 * wait, RETRY_MAX_MS);
        continue;
      }
      message.reason = error.message;
      keep.keepWaiting(user, message);
      turn("failed");
    }
    stuck = false;
    wait = RETRY_MS;
    queue = queue.filter((m) => m !== message);
  }
  pumping = false;
}

async function checkHealth() {
  if (!socket.connected || document.hidden) return;
  unwell = await fetch("healthz").then((r) => r.text()).then((health) => health.startsWith("degraded"), () => false);
  changed();
}

// Returns somebody, with what has become known of them. Who is not in the list yet may write all the same: it has a limit.
function meet({ userID, ...known }) {
  let person = people.get(userID);
  if (!person) {
    person = {
      userID, username: userID, connected: false, lastSeen: 0, typing: false,
      // The conversation, its messages by key, and whether its beginning is here.
      messages: [], known: new Map(), complete: false, loading: false,
      // Theirs: how many are not read, and the numbers up to which they are read and marked as received.
      unread: 0, read: 0, received: 0,
      // Mine: the times up to which they have received and read them.
      receipt: { received: 0, read: 0 },
    };
    people.set(userID, person);
  }
  for (const name of ["username", "connected", "lastSeen", "unread"]) person[name] = known[name] ?? person[name];
  // What two devices of theirs tell at once may come in either order.
  for (const name in known.receipt) person.receipt[name] = Math.max(person.receipt[name], known.receipt[name]);
  return person;
}

// Adds what the server says to a conversation: each message once, in the order of the numbers. Messages that are only here
// stay. It tells whether one was new.
function merge(person, incoming) {
  let added = false;
  for (const message of incoming) {
    const here = person.known.get(key(message)) ?? {};
    if (!here.from) {
      person.messages.push(here);
      added = true;
    }
    person.known.set(key(message), Object.assign(here, message, { state: "stored" }));
  }
  person.messages.sort(order);
  return added;
}

// A message's id is chosen by its sender, so it says which one only together with the sender.
const key = (m) => (m.id ? `${m.from} ${m.id}` : `#${m.seq}`);

const newestFrom = ({ userID, messages }) => messages.findLast((m) => m.from === userID && m.seq)?.seq ?? 0;

// What has no number yet was written last. Two without a number give NaN, and stay as they are.
const number = (m) => m.seq ?? Infinity;
const order = (a, b) => number(a) - number(b) || 0;

// crypto.randomUUID is not there on plain HTTP from another machine.
export const randomID = () => btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(15))));
