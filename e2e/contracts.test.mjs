// Both contracts and the extra events, driven by the official client over each way to connect. PARLEY_URL names the server, which
// must be in open mode and must have served no one before.

import { describe } from "node:test";

import { chat } from "./chat.mjs";
import { extras } from "./extras.mjs";
import { notify } from "./notify.mjs";

const ways = {
  "polling only": ["polling"],
  "WebSocket only": ["websocket"],
  upgrading: ["polling", "websocket"],
};

for (const [way, transports] of Object.entries(ways)) {
  describe(`chat, ${way}`, () => chat(transports));
  describe(`the chat's extra events, ${way}`, () => extras(transports));
  describe(`notify, ${way}`, () => notify(transports));
}
