// The page in Chromium: people with several devices each, every device in a browser context of its own. Screenshots stay
// in e2e/screenshots.

import { after, afterEach, before, describe } from "node:test";

import { access } from "./page/access.mjs";
import { connection } from "./page/connection.mjs";
import { history } from "./page/history.mjs";
import { launch, quit, settle } from "./page/kit.mjs";
import { messages } from "./page/messages.mjs";
import { signIn } from "./page/sign-in.mjs";

before(launch);
after(quit);
afterEach(settle);

describe("messages", messages);
describe("the connection", connection);
describe("signing in and notifications", signIn);
describe("for everybody", access);
describe("long lists", history);
