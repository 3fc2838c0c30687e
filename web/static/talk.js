// The open conversation. Of a long one only the part around what is in view is in the document; the rest comes as the
// reader scrolls, out of memory or from the server's history.

import * as chat from "./chat.js";
import { avatar, clock, daysAgo, element, format, linked, parts, put, sync } from "./dom.js";
import * as keep from "./keep.js";
import { seen, title, words } from "./people.js";
import { t } from "./texts.js";

const { composer, latest, messages, peer, picture, presence, scroll, text, top, typing, typingText } = parts;

// Rows that are put into the document at first, and then in a frame.
const FIRST = 20;
const STEP = 10;
// What somebody writes within this time belongs together.
const GROUP_MS = 5 * 60_000;
// Characters and lines of a message that is shown whole.
const LONG = 1_200;
const LINES = 24;
// Pixels from the end at which the reader follows what comes.
const AT_END = 48;

/** Whose conversation is open, or null. */
export let person = null;

// The messages in the document, and which was the last of all.
let shown = [];
let newest;
// message -> row
const rows = new Map();
// The end is in view, and stays there.
let following = true;
// How far down it went when the reader scrolled last.
let lastHeight = 0;
// The number after which all was new when the conversation was opened.
let newFrom = Infinity;
// What is asked of the next frame.
let waiting = null;
// Something came while the reader was further up.
let below = false;
let today = "";

export function start() {
  scroll.addEventListener("scroll", scrolled, { passive: true });
  // Whatever changes its height (the window, the text that is written, a message that comes): the end stays in view.
  // Elsewhere it may bring an end of what is in the document near.
  const observer = new ResizeObserver(() => (following ? toEnd() : more()));
  for (const e of [scroll, messages, typing]) observer.observe(e);
  latest.addEventListener("click", () => {
    toEnd();
    text.focus();
  });
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  text.addEventListener("keydown", (event) => {
    // Enter that ends the composition of a character is not meant for us.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  text.addEventListener("input", () => {
    chat.typing(person.userID, text.value.trim() !== "");
    wrote();
  });
  messages.addEventListener("click", clicked);
}

/** Opens the conversation with somebody, or none. */
export function open(other) {
  if (other === person) return;
  if (person) chat.typing(person.userID, false);
  person = other;
  reset();
  text.value = person ? keep.draft(chat.self, person.userID) : "";
  for (const e of [peer, top, typingText]) put(e, "");
  if (!person) return;
  newFrom = person.unread > 0 ? person.read : Infinity;
  draw();
  toEnd();
  wrote();
}

/** Draws what has changed. What the reader sees is marked as read. */
export function draw() {
  if (!person) return;
  // What was today is yesterday?
  if (today !== new Date().toDateString()) reset();
  const { connected, username } = person;
  avatar(picture, person);
  put(peer, title(person));
  put(presence, chat.state !== "online" ? "" : person.typing ? t.typing : connected ? t.online : seen(person));
  presence.classList.toggle("lively", person.typing);
  put(typingText, t.isTyping(username));
  typing.hidden = !person.typing;
  const all = person.messages;
  const first = all.indexOf(shown[0]);
  if (following || first < 0) show(all.slice(Math.max(first < 0 ? -FIRST : first - all.length, -most())));
  else show(all.slice(first, first + Math.max(shown.length, FIRST)));
  const last = all.at(-1);
  if (last !== newest && last?.from === person.userID) below = true;
  newest = last;
  // What was written before something that has been read has been read, too.
  shown.findLast((m) => m.from === chat.self && drawProgress(m) === "read");
  if (following) below = false;
  if (following && !document.hidden && document.hasFocus()) chat.seen(person);
  latest.hidden = following;
  put(latest, below ? t.news : t.latest);
  drawTop();
  more();
}

function reset() {
  today = new Date().toDateString();
  shown = [];
  rows.clear();
  below = false;
  following = true;
  messages.replaceChildren();
}

// Brings the document in line with what is wanted: what stays is not touched, and what is in view stays where it is.
function show(wanted) {
  if (wanted.length === shown.length && wanted.every((m, i) => m === shown[i])) return;
  const anchor = !following && messages.children[rowAt(edges().top)]?.lastChild;
  const before = anchor && anchor.getBoundingClientRect().top;
  const stay = new Set(wanted);
  for (const message of shown) if (!stay.has(message)) rows.delete(message);
  shown = wanted;
  sync(messages, wanted.map(makeRow));
  wanted.forEach((message, i) => head(message, wanted[i - 1]));
  if (anchor?.isConnected) scroll.scrollTop += anchor.getBoundingClientRect().top - before;
}

const edges = () => scroll.getBoundingClientRect();

// The first row that reaches below a height. The browser is asked about few of them: they stand in order.
function rowAt(height) {
  let [from, to] = [0, shown.length];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (messages.children[middle].getBoundingClientRect().bottom > height) to = middle;
    else from = middle + 1;
  }
  return from;
}

function makeRow(message) {
  if (rows.has(message)) return rows.get(message);
  const mine = message.from === chat.self;
  const body = element("div", "text");
  body.dir = "auto";
  const meta = element("div", "meta", element("time"));
  const bubble = element("div", "bubble", element("span", "by", `${mine ? t.me : person.username}: `), body, meta);
  const row = element("div", mine ? "row mine" : "row", bubble);
  put(meta.firstChild, message.at ? clock(message.at) : "");
  if (mine) meta.append(" ", element("span", "state", element("span", "word")));
  fill(body, words(message), false);
  row.message = message;
  row.before = null;
  rows.set(message, row);
  if (mine) drawProgress(message);
  return row;
}

// A text that is too long to be read in passing is shown in part.
function fill(body, content, whole) {
  const lines = content.split("\n", LINES + 1);
  const long = content.length > LONG || lines.length > LINES;
  const part = () => `${lines.slice(0, LINES).join("\n").slice(0, LONG).replace(/[\ud800-\udbff]$/, "")}…`;
  body.replaceChildren(...linked(long && !whole ? part() : content));
  if (!long) return;
  const button = body.parentNode.querySelector(".more") ?? element("button", "more plain");
  put(button, whole ? t.less : t.more);
  button.setAttribute("aria-expanded", whole);
  body.after(button);
}

// What stands above a message: the day, where the news begin, or nothing where it belongs to the one before.
function head(message, before) {
  const row = rows.get(message);
  if (row.before === before) return;
  row.before = before;
  const isNew = (m) => m?.seq > newFrom && m.from !== chat.self;
  const at = new Date(message.at);
  const newDay = !before || new Date(before.at).toDateString() !== at.toDateString();
  const news = isNew(message) && person.messages.find(isNew) === message;
  while (row.childElementCount > 1) row.firstChild.remove();
  if (news) row.prepend(element("p", "news", t.news));
  if (newDay && message.at) row.prepend(element("h3", "day", dayName(at)));
  row.classList.toggle("first", newDay || news || before.from !== message.from || at - before.at > GROUP_MS);
}

function dayName(at) {
  const days = daysAgo(at);
  if (days < 2) return days === 1 ? t.yesterday : t.today;
  return format(at, { dateStyle: "full" });
}

function drawProgress(message) {
  const row = rows.get(message);
  const state = chat.progress(message);
  if (row.dataset.state === state) return state;
  row.dataset.state = state;
  const meta = row.lastChild.lastChild;
  const failed = state === "failed";
  put(meta.firstChild, clock(message.at));
  put(meta.querySelector(".word"), failed ? `${t.states.failed}: ${message.reason}` : t.states[state]);
  meta.querySelector(".choices")?.remove();
  if (failed) meta.append(element("span", "choices", element("button", "again", t.again), element("button", "discard", t.discard)));
  return state;
}

function clicked({ target }) {
  const { message } = target.closest(".row") ?? {};
  if (!message || target.tagName !== "BUTTON") return;
  if (target.matches(".more")) {
    following = false;
    fill(target.parentNode.querySelector(".text"), words(message), target.getAttribute("aria-expanded") === "false");
    return scrolled();
  }
  if (target.matches(".again")) chat.retry(message);
  else chat.discard(message);
  text.focus();
}

function toEnd() {
  if (!person) return;
  const was = following;
  following = true;
  // What comes while the end is followed is drawn with the next frame, below what is there.
  if (!was && shown.at(-1) !== person.messages.at(-1)) show(person.messages.slice(-FIRST));
  scroll.scrollTop = scroll.scrollHeight;
  if (!was) draw();
}

function scrolled() {
  if (!person) return;
  const was = following;
  // Further from the end may also be what has just come below it: then it is not the reader who has scrolled.
  const height = scroll.scrollHeight - scroll.clientHeight;
  following = (was && height !== lastHeight) || (shown.at(-1) === person.messages.at(-1) && room() < AT_END);
  lastHeight = height;
  if (following !== was) draw();
  else more();
}

// Pixels below what is in view.
const room = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;
// Rows that stay in the document when others come at the end: more than fill the view, and no fewer than step() needed.
const most = () => Math.max(80, shown.length, scroll.clientHeight >> 3);

// Looks once in a frame, when all that has moved is known, whether an end of what is in the document is near.
function more() {
  waiting ??= requestAnimationFrame(() => {
    waiting = null;
    if (person) step();
  });
}

// Near an end of what is in the document: puts more there, from memory or else from the history, and takes away at the
// other end what is far. Far is a screen further than near, however high the rows are: nothing goes that has to come back.
function step() {
  const near = 1.5 * scroll.clientHeight;
  const far = 2.5 * scroll.clientHeight;
  const all = person.messages;
  const first = shown.length && all.indexOf(shown[0]);
  // What is in the document is no longer here. It will be drawn anew.
  if (first < 0) return;
  const end = first + shown.length;
  const above = scroll.scrollTop < near;
  if (above && first > 0) show(all.slice(Math.max(0, first - STEP), Math.min(end, first + rowAt(edges().bottom + far) + 1)));
  else if (room() < near && end < all.length) show(all.slice(first + rowAt(edges().top - far), end + STEP));
  else {
    if (above && all.length + person.unread > 0) chat.older(person);
    return;
  }
  drawTop();
  more();
}

// Tells above the conversation whether it begins there.
function drawTop() {
  const { complete, loading, messages, userID, username } = person;
  const begins = (complete || messages.length === 0) && shown[0] === messages[0];
  put(top, loading ? t.loading : begins ? (userID === chat.self ? t.notes : t.beginning(username)) : "");
}

function send() {
  const content = text.value.trimEnd();
  if (!content.trim()) return;
  text.value = "";
  wrote();
  chat.send(person.userID, content);
  toEnd();
}

// The text that is being written has changed: it is kept, and the field grows with it where the style can't say so.
function wrote() {
  keep.keepDraft(chat.self, person.userID, text.value);
  if (CSS.supports("field-sizing", "content")) return;
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}
