// The notify application, in the namespace "/socket" of the same connection: two events to send, and all that arrives on
// this and the other devices of the user.

import { randomID } from "./chat.js";
import { clock, element, parts, put } from "./dom.js";
import { t } from "./texts.js";

const { noticesActions: actions, noticesEmpty, noticesList: list, noticesProblem } = parts;
// Arrivals that are shown.
const KEPT = 200;

/** How many have arrived while nobody looked. */
export let unseen = 0;

let socket;
let user = "";
let looked = () => false;

/** token returns the token of this user, or null in open mode; visible tells whether this view is looked at. */
export function start(connection, token, visible, changed) {
  looked = visible;
  // In open mode any token will do: the id says who it is.
  socket = connection.of("/socket", () => (token() ? { token: token() } : { token: "open", id: user }));
  socket.on("message", (notice) => {
    arrived(notice);
    changed();
  });
  for (const event of ["connect", "disconnect"]) socket.on(event, () => draw(""));
  socket.on("connect_error", (error) => draw(t.refused(error?.message)));
  for (const [event, label] of Object.entries(t.actions)) {
    const button = element("button", "primary", label);
    button.addEventListener("click", () => act(event));
    actions.append(button);
  }
  draw("");
}

/** Connects as a user, with "" as nobody. */
export function become(userID) {
  if (userID === user) return;
  socket.disconnect();
  user = userID;
  unseen = 0;
  list.replaceChildren();
  if (user) socket.connect();
  draw("");
}

export const renew = (token) => socket.request("refresh", { token });

async function act(event) {
  const failed = (error) => draw(t.refused(error.message));
  draw("");
  const answer = await socket.request("message", { event, args: {}, id: randomID() }).catch(failed);
  if (answer?.error) failed(answer.error);
}

function arrived({ event, args }) {
  const text = element("p", "", String(args?.message ?? ""));
  text.dir = "auto";
  list.prepend(element("li", "", element("code", "quiet", String(event)), element("time", "quiet", clock(Date.now())), text));
  if (list.childElementCount > KEPT) list.lastChild.remove();
  unseen++;
  draw("");
}

/** Draws the view. What is looked at is not unseen. */
export function draw(problem = noticesProblem.textContent) {
  if (looked()) unseen = 0;
  for (const button of actions.children) button.disabled = !socket.connected;
  put(noticesProblem, problem);
  noticesEmpty.hidden = list.childElementCount > 0;
}
