// The list of people: those this user has talked with, newest first, and then everybody else. Each person keeps their
// element, and only those that have changed are drawn again.

import * as chat from "./chat.js";
import { avatar, clock, daysAgo, element, format, parts, put, sync } from "./dom.js";
import * as keep from "./keep.js";
import { t } from "./texts.js";

const { list, nobody, others, search, talks } = parts;
// Of quiet before the server is asked.
const SEARCH_MS = 250;
// People in a part of the list. The browser looks at each part in each frame, and draws those that come into view.
const PART = 10;

// person -> element
const rows = new Map();
// Those to be drawn again, and whether anything is to be.
const dirty = new Set();
let stale = true;
// username -> how many have it
const names = new Map();
// The user id of the open conversation.
let current = "";
let timer;

const { compare } = new Intl.Collator(undefined, { sensitivity: "base", numeric: true });
const byName = (a, b) => compare(a.username, b.username) || compare(a.userID, b.userID);
const latest = (p) => p.messages.at(-1)?.at ?? 0;
const buttons = () => [...list.querySelectorAll("button")];

/** Content may be any JSON; what is not a text is shown as it was sent. */
export const words = ({ content }) => (typeof content === "string" ? content : JSON.stringify(content) ?? "");

/** Starts the list. choose is called with the person that is chosen. */
export function start(choose) {
  list.addEventListener("click", ({ target }) => {
    const row = target.closest("[role=listitem]");
    if (!row) return;
    search.value = "";
    stale = true;
    choose(row.person);
  });
  list.addEventListener("keydown", move);
  search.addEventListener("input", () => {
    clearTimeout(timer);
    const prefix = search.value.trim();
    if (prefix) timer = setTimeout(() => chat.search(prefix), SEARCH_MS);
    stale = true;
    draw();
  });
  search.addEventListener("keydown", (event) => {
    const [first] = buttons();
    if (event.key === "Escape" && search.value) {
      search.value = "";
      stale = true;
      draw();
    } else if (event.key === "ArrowDown") first?.focus();
    else if (event.key === "Enter" && search.value) first?.click();
    else return;
    event.preventDefault();
  });
}

/** Somebody has changed, or with no one named anybody may have. */
export function changed(person) {
  for (const p of person ? [person] : chat.people.values()) dirty.add(p);
  stale = true;
}

export function select(userID) {
  if (current === userID) return;
  for (const id of [current, userID]) changed(chat.people.get(id) ?? {});
  current = userID;
}

/** Puts the focus on a person. */
export const focus = (userID) => (rows.get(chat.people.get(userID))?.firstChild ?? search).focus();

/** A person's name; where two have the same, with the beginning of their id. */
export function title({ userID, username }) {
  if (userID === chat.self) return t.you(username);
  return names.get(username) > 1 ? `${username} · ${userID.slice(0, 4)}` : username;
}

/** Tells when somebody who is not there was. */
export const seen = ({ lastSeen }) => (lastSeen ? t.lastSeen(shortly(lastSeen)) : t.away);

export function draw() {
  if (!stale) return;
  stale = false;
  const { people } = chat;
  for (const person of rows.keys()) if (people.get(person.userID) !== person) rows.delete(person);
  names.clear();
  for (const { username } of people.values()) names.set(username, (names.get(username) ?? 0) + 1);

  const wanted = search.value.trim().toLocaleLowerCase();
  const groups = [[], []];
  for (const p of people.values()) {
    if (p.username.toLocaleLowerCase().includes(wanted)) groups[p.messages.length + p.unread > 0 ? 0 : 1].push(p);
  }
  groups[0].sort((a, b) => latest(b) - latest(a) || byName(a, b));
  groups[1].sort((a, b) => b.connected - a.connected || byName(a, b));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  for (const e of [talks, others]) {
    const group = groups.shift();
    fill(e, group.map(drawRow));
    e.parentNode.hidden = group.length === 0;
  }
  // An element that is moved far loses the focus.
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  dirty.clear();
  put(nobody, wanted && !list.querySelector("button") ? t.noMatch(search.value.trim()) : people.size === 1 ? t.alone : "");
  rove(list.contains(document.activeElement) ? document.activeElement : list.querySelector("[aria-current=true]"));
}

function fill(e, group) {
  // The row with the focus stays in its part, or would be spoken again; unless that has come to stand far from there.
  let at = group.findIndex((row) => row.contains(document.activeElement));
  let its = [...e.children].indexOf(group[at]?.parentNode);
  if (its < 0 || Math.abs(Math.floor(at / PART) - its) > 1) at = its = Infinity;
  const edge = (i) => (i > its ? Math.max(i * PART, at + 1) : Math.min(i * PART, at));
  for (let i = 0; i * PART < group.length || e.children[i]; i++) {
    const part = e.children[i] ?? e.appendChild(element("div", "part"));
    const some = group.slice(edge(i), edge(i + 1));
    sync(part, some);
    part.style.height = `${4 * some.length}rem`;
  }
}

function drawRow(person) {
  let row = rows.get(person);
  if (row && !dirty.has(person)) return row;
  if (!row) {
    const button = element("button", "person", element("span"), element("bdi", "name"), element("span", "when quiet"),
      element("span", "last quiet"), element("span", "badge"), element("span", "sr"));
    button.tabIndex = -1;
    row = element("div", "", button);
    row.setAttribute("role", "listitem");
    row.person = person;
    rows.set(person, row);
  }
  const [picture, name, when, last, badge, presence] = row.firstChild.children;
  const newest = person.messages.at(-1);
  const { connected, typing, unread, userID } = person;
  avatar(picture, person);
  row.firstChild.setAttribute("aria-current", userID === current);
  put(name, title(person));
  put(when, newest?.at ? shortly(newest.at) : "");
  put(badge, unread > 99 ? "99+" : unread || "");

  const draft = !typing && userID !== current && keep.draft(chat.self, userID);
  let text = draft || (connected ? t.online : seen(person));
  if (typing) text = t.typing;
  else if (newest && !draft) text = (newest.from === chat.self ? t.youSaid : String)(words(newest));
  put(presence, `${newest || typing || draft ? `, ${connected ? t.online : t.away}` : ""}${unread ? `, ${t.unread(unread)}` : ""}`);
  last.classList.toggle("lively", typing);
  last.replaceChildren(element("em", "", draft ? t.draft : ""), element("bdi", "", text.slice(0, 160)));
  return row;
}

// One of the list can be reached by Tab; the arrow keys go on from there.
function rove(to) {
  const before = list.querySelector('[tabindex="0"]');
  const now = to ?? before ?? list.querySelector("button");
  if (before) before.tabIndex = -1;
  if (now) now.tabIndex = 0;
}

function move(event) {
  const all = buttons();
  const from = all.indexOf(document.activeElement);
  const to = { ArrowDown: from + 1, ArrowUp: from - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const target = to < 0 ? search : all[to];
  if (to >= 0 && target) rove(target);
  target?.focus();
}

function shortly(at) {
  const days = daysAgo(at);
  if (days <= 0) return clock(at);
  return format(at, days < 7 ? { weekday: "short" } : { dateStyle: "short" });
}
