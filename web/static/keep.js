// What this device keeps between visits: who is signed in, and for each user the drafts and the messages that are not
// stored by the server yet. A browser that keeps nothing (private window, no room left) makes the page forget, not fail.

const SESSION = "parley/session";
const TOKEN = "parley/token";
const owned = (kind, user, name = "") => `parley/${kind}/${encodeURIComponent(user)}/${encodeURIComponent(name)}`;

const quietly = (action, otherwise = null) => {
  try {
    return action();
  } catch {
    return otherwise;
  }
};
const read = (area, key) => quietly(() => JSON.parse(window[area].getItem(key)));
const write = (area, key, value) =>
  quietly(() => (value ? window[area].setItem(key, JSON.stringify(value)) : window[area].removeItem(key)));
const keys = (prefix) => quietly(() => Object.keys(localStorage), []).filter((key) => key.startsWith(prefix));

/** A tab stays who it is; a new one is whoever signed in last: {sessionID, userID}, or null. */
export const session = () => read("sessionStorage", SESSION) ?? read("localStorage", SESSION);

export function keepSession(value) {
  write("sessionStorage", SESSION, value);
  write("localStorage", SESSION, value);
}

/** Calls back when another tab has signed this session out. */
export function onSignOut(callback) {
  addEventListener("storage", ({ key, newValue, oldValue }) => {
    const gone = key === SESSION && !newValue && quietly(() => JSON.parse(oldValue));
    if (gone && gone.sessionID === session()?.sessionID) callback();
  });
}

/** The token of this tab, if it is signed in by one. */
export const token = () => read("sessionStorage", TOKEN);
export const keepToken = (value) => write("sessionStorage", TOKEN, value);

export const draft = (user, peer) => read("localStorage", owned("draft", user, peer)) ?? "";
export const keepDraft = (user, peer, text) => write("localStorage", owned("draft", user, peer), text);

/** The messages of a user that wait to be sent, oldest first. */
export const waiting = (user) =>
  keys(owned("out", user)).map((key) => read("localStorage", key)).filter(Boolean).sort((a, b) => a.at - b.at);
export const keepWaiting = (user, { id, to, content, at, reason }) =>
  write("localStorage", owned("out", user, id), { id, to, content, at, reason });
export const dropWaiting = (user, id) => write("localStorage", owned("out", user, id), null);

export const theme = () => read("localStorage", "parley/theme");
export const keepTheme = (value) => write("localStorage", "parley/theme", value);

/** Forgets a user on this device: session, token, drafts, and what was not sent. */
export function forget(user) {
  const kept = read("localStorage", SESSION);
  if (!user || kept?.userID === user) write("localStorage", SESSION, null);
  write("sessionStorage", SESSION, null);
  write("sessionStorage", TOKEN, null);
  if (!user) return;
  for (const key of [...keys(owned("draft", user)), ...keys(owned("out", user))]) write("localStorage", key, null);
}
