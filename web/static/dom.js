// Small helpers for the document. Whatever people write reaches it as text and as nothing else.

/** The elements of the page by their id. */
export const parts = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));

/** Makes an element with a class and children; a text becomes a text node. */
export function element(tag, className = "", ...children) {
  const e = document.createElement(tag);
  e.className = className;
  e.append(...children);
  return e;
}

/** Sets an element's text, if it is another. */
export function put(e, text) {
  if (e.textContent !== String(text)) e.textContent = text;
}

/** Makes nodes the children of parent, in order, touching as few as it can, and the one with the focus last of all. */
export function sync(parent, nodes) {
  const wanted = new Set(nodes);
  for (const node of [...parent.childNodes]) if (!wanted.has(node)) node.remove();
  let at = parent.firstChild;
  for (const node of nodes) {
    // It would lose the focus: those before it make way, and are put back.
    if (node.parentNode === parent && node.contains(document.activeElement)) while (at !== node) (at = at.nextSibling).previousSibling.remove();
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
}

// An address ends where direction marks begin, so that none can be shown as another.
const address = /\bhttps?:\/\/[^\s<>"\u200e\u200f\u202a-\u202e\u2066-\u2069]+/giu;

/** Returns the nodes of a text: what looks like a web address becomes a link. */
export function linked(text) {
  const nodes = [];
  let from = 0;
  for (const { 0: found, index } of text.matchAll(address)) {
    let href = found.replace(/[.,:;!?'”’*_]+$/u, "");
    if (href.endsWith(")") && !href.includes("(")) href = href.slice(0, -1);
    if (!URL.canParse(href)) continue;
    const a = element("a", "", href);
    Object.assign(a, { href, target: "_blank", rel: "noopener noreferrer" });
    nodes.push(text.slice(from, index), a);
    from = index + href.length;
  }
  return [...nodes, text.slice(from)];
}

/** Draws somebody's picture: the first letter of their name, in a colour of their own. */
export function avatar(e, { userID, username, connected }) {
  let sum = 0;
  for (const c of userID) sum = (sum * 31 + c.codePointAt(0)) % 9973;
  put(e, (/[\p{L}\p{N}]/u.exec(username)?.[0] ?? "?").toLocaleUpperCase());
  e.className = connected ? "avatar here" : "avatar";
  e.style.setProperty("--hue", (sum * 47) % 360);
  e.setAttribute("aria-hidden", true);
}

const formats = new Map();
/** Formats a time in the reader's language and time zone. */
export function format(at, options) {
  const key = JSON.stringify(options);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(undefined, options));
  return formats.get(key).format(at);
}
export const clock = (at) => format(at, { timeStyle: "short" });

/** How many midnights ago a moment was. */
export const daysAgo = (at) => Math.round((new Date().setHours(0, 0, 0, 0) - new Date(at).setHours(0, 0, 0, 0)) / 86_400_000);
