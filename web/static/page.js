// The page: draws what the chat knows, and passes on what the person does. Whatever people write reaches the
// document as textContent and as nothing else.

import { Chat } from "./chat.js";

const $ = (id) => document.getElementById(id);
const chat = new Chat();
const time = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });

// Each person and message keeps its element, so that drawing again touches only what changed: the scroll
// position, the focus and what a screen reader has read out stay.
const rows = new Map(); // user id -> element
const bubbles = new WeakMap(); // message -> element
const drafts = new Map(); // user id -> text not sent yet

let shown = ""; // user id of the conversation on the page
let drawing = false;

chat.addEventListener("change", () => {
  if (drawing) return;
  drawing = true;
  // A microtask, not an animation frame: hidden tabs have none.
  queueMicrotask(() => {
    drawing = false;
    draw();
  });
});

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  if (name) chat.signIn(name);
});
$("again").addEventListener("click", () => chat.resume());
$("sign-out").addEventListener("click", () => {
  drafts.clear();
  rows.clear();
  $("text").value = "";
  chat.signOut();
});
$("back").addEventListener("click", () => {
  const from = chat.selected;
  chat.select("");
  queueMicrotask(() => rows.get(from)?.firstChild.focus());
});
$("older").addEventListener("click", () => chat.older(chat.selected));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("keydown", (event) => {
  // Enter that ends the composition of a character is not meant for us.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && chat.selected) chat.select(chat.selected);
});

function send() {
  const text = $("text").value;
  if (!text.trim() || !chat.selected) return;
  $("text").value = "";
  chat.send(chat.selected, text);
  queueMicrotask(() => ($("scroll").scrollTop = $("scroll").scrollHeight));
}

function draw() {
  const out = chat.state === "out";
  const entering = out && $("welcome").hidden;
  $("welcome").hidden = !out;
  $("chat").hidden = out;
  if (entering) $("name").focus();
  const unread = [...chat.people.values()].reduce((sum, p) => sum + p.unread, 0);
  document.title = unread > 0 && !out ? `(${unread}) Parley` : "Parley";
  if (out) {
    $("problem").hidden = !chat.problem;
    $("problem").textContent = chat.problem;
    $("again").hidden = !chat.resumable;
    return;
  }
  const status = { connecting: "Connecting…", offline: "You are offline. What you write is sent when you are back." };
  put($("status"), status[chat.state] ?? "");
  put($("me"), chat.people.get(chat.self)?.username ?? "Parley");
  drawPeople();
  drawConversation();
}

function drawPeople() {
  const people = [...chat.people.values()].sort(
    (a, b) => (b.userID === chat.self) - (a.userID === chat.self) || a.username.localeCompare(b.username),
  );
  sync($("people"), people.map((person) => {
    let row = rows.get(person.userID);
    if (!row) {
      row = element("li");
      const button = element("button");
      button.append(element("span", "dot"), element("span", "name"), element("span", "unread"), element("span", "last"));
      button.addEventListener("click", () => {
        chat.select(person.userID);
        queueMicrotask(() => $("text").focus());
      });
      row.append(button);
      rows.set(person.userID, row);
    }
    const button = row.firstChild;
    const [, name, unread, last] = button.children;
    const newest = person.messages.at(-1);
    button.classList.toggle("here", person.connected);
    button.setAttribute("aria-current", person.userID === chat.selected);
    put(name, title(person));
    put(unread, person.unread || "");
    put(last, newest ? words(newest) : person.connected ? "online" : "offline");
    const label = [title(person), person.connected ? "online" : "offline", person.unread ? `${person.unread} unread` : ""];
    button.setAttribute("aria-label", label.filter(Boolean).join(", "));
    return row;
  }));
}

function drawConversation() {
  const person = chat.people.get(chat.selected);
  $("conversation").hidden = !person;
  $("nobody").hidden = Boolean(person);
  $("chat").classList.toggle("talking", Boolean(person));
  const scroll = $("scroll");
  const changed = shown !== (person?.userID ?? "");
  if (changed) {
    drafts.set(shown, $("text").value);
    shown = person?.userID ?? "";
    $("text").value = drafts.get(shown) ?? "";
    $("messages").replaceChildren();
  }
  if (!person) return;

  put($("peer"), title(person));
  put($("presence"), person.connected ? "online" : "offline");
  $("older").hidden = person.complete || !person.messages.some((m) => m.seq);
  $("older").disabled = person.loading || chat.state !== "online";

  const fromEnd = scroll.scrollHeight - scroll.scrollTop;
  const atEnd = changed || fromEnd - scroll.clientHeight < 40;
  const first = $("messages").firstElementChild;
  const nodes = [];
  let lastDay = "";
  for (const message of person.messages) {
    const at = new Date(message.at ?? NaN);
    const today = isNaN(at) ? "" : day.format(at);
    const bubble = drawMessage(message, at);
    if (today && today !== lastDay) {
      bubble.day ??= element("li", "day");
      put(bubble.day, today);
      nodes.push(bubble.day);
      lastDay = today;
    }
    nodes.push(bubble);
  }
  sync($("messages"), nodes);
  // At the end it stays at the end; where older messages came in above, what was being read stays put.
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
  else if ($("messages").firstElementChild !== first) scroll.scrollTop = scroll.scrollHeight - fromEnd;
}

function drawMessage(message, at) {
  let bubble = bubbles.get(message);
  if (!bubble) {
    bubble = element("li");
    const body = element("div", "body");
    body.dir = "auto";
    put(body, words(message));
    const again = element("button");
    again.textContent = "Send again";
    again.addEventListener("click", () => chat.retry(message));
    const note = element("div", "note");
    note.append(element("span"), " ", again);
    bubble.append(body, note);
    bubbles.set(message, bubble);
  }
  const [text, again] = bubble.lastChild.children;
  const clock = isNaN(at) ? "" : time.format(at);
  const mine = message.from === chat.self;
  const states = { pending: "sending…", failed: `not sent: ${message.reason}`, sent: mine ? `${clock} ✓` : clock };
  put(text, states[message.state]);
  again.hidden = message.state !== "failed";
  bubble.className = `message ${mine ? "mine" : "theirs"} ${message.state}`;
  return bubble;
}

// Content may be any JSON; what is not a text is shown as it was sent.
const words = ({ content }) => (typeof content === "string" ? content : JSON.stringify(content) ?? "");

const title = ({ userID, username }) => (userID === chat.self ? `${username} (you)` : username);

function element(tag, className = "") {
  const e = document.createElement(tag);
  e.className = className;
  return e;
}

function put(e, text) {
  if (e.textContent !== String(text)) e.textContent = text;
}

// sync makes nodes the children of parent, in order, moving and removing as few as it can.
function sync(parent, nodes) {
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

if (!chat.resume()) draw();
