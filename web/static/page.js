// The page: brings together what the chat knows, its views and the browser.

import * as chat from "./chat.js";
import { Connection } from "./client.js";
import { avatar, clock, element, parts, put } from "./dom.js";
import * as keep from "./keep.js";
import * as notices from "./notices.js";
import * as people from "./people.js";
import * as talk from "./talk.js";
import { t } from "./texts.js";

const { bar, barAct, barText, barWait, menu, name, search, text, token } = parts;
// Before a token runs out, the page says so.
const RENEW_MS = 60_000;
// Where the focus opens no keyboard over the page.
const finePointer = matchMedia("(pointer: fine)").matches;
const root = document.documentElement;
const on = (id, event, listener) => parts[id].addEventListener(event, listener);

// ?token= is taken once: from here on it is nowhere in the address bar, the history or a referrer.
const address = new URL(location);
if (address.searchParams.has("token")) {
  keep.keepToken(address.searchParams.get("token"));
  address.searchParams.delete("token");
  history.replaceState(history.state, "", address);
}

root.lang = t.lang;
for (const e of document.querySelectorAll("[data-text]")) e.textContent = t[e.dataset.text];
for (const e of document.querySelectorAll("[data-label]")) e.setAttribute("aria-label", t[e.dataset.label]);
const findKey = /Mac|iP/.test(navigator.platform) ? "⌘K" : "Ctrl+K";
search.placeholder = t.searchHint(findKey);
text.placeholder = t.writeHint;
put(parts.blankHint, t.chooseHow(findKey));

// What is open: {with: user id}, {notices: true} or nothing.
let view = history.state ?? {};
// The way to sign in that was asked for, if one was.
let way = null;
let drawing = false;

const connection = new Connection("/socket.io/");
chat.start(connection);
people.start((person) => go({ with: person.userID }));
talk.start();
notices.start(connection, () => chat.token, () => view.notices && !document.hidden, soon);

// ---- What changes is drawn once per frame; a hidden tab has none, and needs little.

chat.news.on("change", (person) => {
  if (person) people.changed(person);
  soon();
});
chat.news.on("reset", () => {
  people.changed();
  soon();
});
connection.on("change", soon);
for (const event of ["visibilitychange", "focus"]) addEventListener(event, soon, true);
// Midnight, and the end of a token.
setInterval(soon, 30_000);

function soon() {
  if (drawing) return;
  drawing = true;
  if (document.hidden) setTimeout(draw, 100);
  else requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const out = chat.state === "out";
  const entering = out && parts.welcome.hidden;
  parts.welcome.hidden = !out;
  parts.chat.hidden = out;
  notices.become(out ? "" : chat.self);
  let unread = 0;
  for (const person of chat.people.values()) unread += person.unread;
  document.title = unread > 0 && !out ? `(${unread > 99 ? "99+" : unread}) ${t.app}` : t.app;
  if (out) return drawWelcome(entering);

  const { userID = "", username = t.app } = chat.people.get(chat.self) ?? {};
  put(parts.me, username);
  avatar(parts.myPicture, { userID, username });
  if (userID) name.value = username;
  drawBar();
  show();
  notices.draw();
  put(parts.unseen, notices.unseen || "");
  parts.noticesOpen.setAttribute("aria-label", notices.unseen ? t.unseen(notices.unseen) : t.notices);
  people.draw();
  talk.draw();
}

function drawWelcome(entering) {
  talk.open(null);
  people.draw();
  parts.announce.replaceChildren();
  put(parts.me, "");
  if (entering && !chat.problem) name.value = search.value = "";
  const byName = way ?? !chat.needsToken;
  parts.problem.hidden = !chat.problem;
  put(parts.problem, chat.problem);
  parts.nameForm.hidden = !byName;
  parts.tokenForm.hidden = byName;
  put(parts.otherWay, byName ? t.useToken : t.useName);
  if (entering) (byName ? name : token).focus();
}

// ---- The truth about the connection

let ticking;
function drawBar() {
  clearTimeout(ticking);
  const wait = Math.ceil((connection.retryAt - Date.now()) / 1000);
  let line = "";
  let until = "";
  let action = "";
  if (chat.state === "connecting") line = t.connecting;
  else if (chat.state === "offline") {
    line = navigator.onLine ? t.lost : t.offline;
    // Beside the text that is read out, for it changes each second.
    if (wait > 1) [until, action] = [t.retryIn(wait), t.tryNow];
    ticking = setTimeout(drawBar, 1000);
  } else if (chat.degraded()) line = t.degraded;
  else if (chat.expires() - Date.now() < RENEW_MS) [line, action] = [t.endsAt(clock(chat.expires())), t.renewNow];
  bar.hidden = !line;
  bar.className = chat.state;
  put(barText, line);
  put(barWait, until);
  barAct.hidden = !action;
  put(barAct, action);
}
on("barAct", "click", () => (chat.state === "online" ? renew() : connection.retry()));

async function renew() {
  const next = prompt(t.renew)?.trim();
  if (!next) return;
  try {
    await notices.renew(next);
    await chat.renew(next);
  } catch (error) {
    alert(t.refused(error.message));
  }
  soon();
}

// ---- Signing in and out

on("nameForm", "submit", (event) => {
  event.preventDefault();
  if (name.value.trim()) chat.signIn(name.value.trim());
});
on("tokenForm", "submit", (event) => {
  event.preventDefault();
  chat.signInWith(token.value.trim());
  token.value = "";
});
on("otherWay", "click", () => {
  way = parts.nameForm.hidden;
  drawWelcome(true);
});
on("signOut", "click", () => {
  menu.hidePopover();
  if (chat.unsent() > 0 && !confirm(t.unsent(chat.unsent()))) return;
  view = {};
  history.replaceState({}, "");
  way = null;
  chat.signOut();
});

// ---- What is open, and the way back. On a narrow screen the list is one screen, and what is open another.

function go(to) {
  if (view.with || view.notices) history.replaceState({ ...to, behind: view.behind }, "");
  else history.pushState({ ...to, behind: true }, "");
  open(history.state);
  if (to.notices) parts.noticesTitle.focus();
  else if (finePointer) text.focus();
}

function back() {
  if (view.behind) return history.back();
  history.replaceState({}, "");
  open({});
}

addEventListener("popstate", ({ state }) => open(state ?? {}));

function open(to) {
  const from = view.with;
  view = to;
  draw();
  if (!to.with && !to.notices) people.focus(from);
}

function show() {
  const person = chat.people.get(view.with) ?? null;
  const opened = Boolean(person || view.notices);
  people.select(view.with ?? "");
  parts.talk.hidden = !person;
  parts.notices.hidden = !view.notices;
  parts.blank.hidden = opened;
  parts.chat.classList.toggle("opened", opened);
  talk.open(person);
}

on("noticesOpen", "click", () => go({ notices: true }));
for (const button of document.querySelectorAll(".back")) button.addEventListener("click", back);

addEventListener("keydown", (event) => {
  if (chat.state === "out" || event.defaultPrevented) return;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
    event.preventDefault();
    if (!parts.sidebar.checkVisibility()) {
      // The list comes back at once; the history follows.
      parts.chat.classList.remove("opened");
      back();
    }
    search.focus();
    search.select();
  } else if (event.key === "Escape" && (view.with || view.notices) && !menu.matches(":popover-open")) back();
});

// ---- When nobody looks

chat.news.on("arrived", (person, message) => {
  const line = people.words(message).slice(0, 200);
  const said = element("p", "", person === talk.person ? t.said(person.username, line) : t.wroteYou(person.username));
  parts.announce.append(said);
  setTimeout(() => said.remove(), 10_000);
  if (!document.hidden || globalThis.Notification?.permission !== "granted") return;
  try {
    // Every tab says so; the tag makes one of it.
    const notice = new Notification(person.username, { body: line, tag: message.id, icon: "icon.svg" });
    notice.onclick = () => {
      notice.close();
      window.focus();
      go({ with: person.userID });
    };
  } catch {
    // Some browsers have them for service workers only. The title shows the number all the same.
  }
});

// ---- The menu

function drawMenu() {
  const permission = globalThis.Notification?.permission ?? "denied";
  put(parts.askNotices, t.permission[permission]);
  parts.askNotices.disabled = permission !== "default";
  root.dataset.theme = keep.theme() ?? "auto";
  put(parts.theme, t.themes[root.dataset.theme]);
}
on("menu", "beforetoggle", drawMenu);
on("askNotices", "click", () => Notification.requestPermission().then(drawMenu));
on("theme", "click", () => {
  keep.keepTheme({ auto: "light", light: "dark", dark: "auto" }[root.dataset.theme]);
  drawMenu();
});

drawMenu();
if (chat.resumable()) chat.resume();
else draw();
