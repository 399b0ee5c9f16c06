// Draws messages and devices. Texts of others are set as texts alone, never as markup.

import { setAnswer } from "./forms.js";

const MAX_SHOWN_CARDS = 6;
const MAX_SHOWN_RECIPIENTS = 50;
const MAX_SHOWN_USERS = 8;
const NO_REGISTRATION = "the recipient has no registration";
const ANSWERS = [[200, "200 OK"], [410, "410 gone"], [503, "503 fails"]];

const byId = (id) => document.getElementById(id);

/** Returns an element with a class and with texts or elements in it; `undefined` is left out. */
function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content.filter((part) => part !== undefined && part !== ""));
  return made;
}

/** Isolates the direction of a text of somebody else. */
const text = (content, className) => element("bdi", className, String(content));

// A formatter is slow to make.
const MINUTES = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const SECONDS = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

function clock(time, format = SECONDS) {
  const date = new Date(time);
  const made = element("time", "", format.format(date));
  made.dateTime = date.toISOString();
  return made;
}

export function showConnection(className, words) {
  const connection = byId("connection");
  connection.className = `connection ${className}`;
  if (connection.textContent !== words) connection.textContent = words;
}

export function showRegistrationsArePartial(isPartial) {
  byId("partial").hidden = !isPartial;
}

let announced = 0;
let pending;

/** Tells screen readers of a result, at most every two seconds: of several, the last one. */
export function announce(words) {
  clearTimeout(pending);
  pending = setTimeout(() => {
    announced = Date.now();
    byId("announcement").textContent = words;
  }, Math.max(300, announced + 2000 - Date.now()));
}

const CHIPS = {
  delivered: ["good", "notified"],
  chosen: ["", "sending"],
  "left out": ["none", "not notified"],
  transient: ["warn", "not yet"],
  gone: ["bad", "gone"],
  suspect: ["warn", "may be gone"],
  refused: ["bad", "refused"],
};

function chip(result) {
  const [className, words] = CHIPS[result] ?? ["none", result];
  return element("span", `chip ${className}`, words);
}

/** Returns the time of the next attempt, with the remaining seconds. */
function next(at) {
  const seconds = Math.max(0, Math.round((at - Date.now()) / 1000));
  return element("span", "next", "next try at ", clock(at), seconds > 0 ? ` (in ${seconds} s)` : " (now)");
}

function wayItem({ jid, node, result, why, rule, quiet, tries, next: at }) {
  const notes = [text(node)];
  if (why) notes.push(": ", text(why));
  if (rule) notes.push(", by ", text(rule));
  if (quiet) notes.push(", without a sound");
  if (tries > 1) notes.push(`, attempt ${tries}`);
  if (at) notes.push(", ", next(at));
  const [name, ...rest] = notes;
  const line = element("span", "why", element("b", "", name), ...rest);
  line.title = jid;
  return element("li", "", chip(result), line);
}

function knownText({ exists, online, presence, client_state, unread_count }) {
  const sources = { event: "says the event", sessions: "by the sessions", assumed: "assumed" };
  const parts = [exists ? undefined : "does not exist", `${online ? "online" : "offline"} (${sources[presence] ?? presence})`,
    client_state && `client ${client_state}`, unread_count > 0 ? `${unread_count} unread` : undefined];
  return parts.filter(Boolean).join("; ");
}

function recipientItem({ user, known, reason, ways, lines, next: at }) {
  const head = element("p", "", element("b", "", text(user)));
  if (known) head.append(element("span", "known", ` ${knownText(known)}`));
  const item = element("li", "recipient", head);
  const list = element("ul", "ways", ...[...ways.values()].map(wayItem));
  const why = reason ?? (known?.registrations === 0 ? NO_REGISTRATION : undefined);
  if (why) list.append(element("li", "", chip("left out"), element("span", "why", text(why))));
  for (const { level, text: words } of (lines ?? []).slice(-3)) {
    // The way of a device has the same reason.
    if ([...ways.values()].some(({ why }) => why && words.includes(why))) continue;
    list.append(element("li", "", element("span", `chip ${level === "ERROR" ? "bad" : "warn"}`, level.toLowerCase()),
      element("span", "why", text(words))));
  }
  if (at) list.append(element("li", "", chip("transient"), element("span", "why", next(at))));
  item.append(list);
  return item;
}

/** Returns the reason for which nothing is sent to a recipient, if that is all there is to say. */
function onlyReason({ known, reason, ways, lines, next: at }) {
  if (ways.size > 0 || lines || at) return undefined;
  return reason ?? (known?.registrations === 0 ? NO_REGISTRATION : undefined);
}

/** Returns first the recipients whose devices are tried, and of many others each reason once. */
function recipientItems(recipients) {
  const groups = Map.groupBy(recipients, onlyReason);
  const single = groups.get(undefined) ?? [];
  groups.delete(undefined);
  const items = single.slice(0, MAX_SHOWN_RECIPIENTS).map(recipientItem);
  if (single.length > items.length) items.push(element("li", "known", `and ${single.length - items.length} more recipients`));
  for (const [reason, group] of groups) {
    if (group.length < 4) {
      items.push(...group.map(recipientItem));
      continue;
    }
    const list = element("ul", "ways", element("li", "", chip("left out"), element("span", "why", text(reason))));
    const head = element("p", "", element("b", "", `${group.length} recipients`), " ", text(some(group.map(({ user }) => user)), "known"));
    items.push(element("li", "recipient", head, list));
  }
  return items;
}

/** Returns the first of some users, and the number of the others. */
function some(users) {
  const rest = users.length - MAX_SHOWN_USERS;
  return users.slice(0, MAX_SHOWN_USERS).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

const TITLES = {
  message: "Message", call: "Call", unacknowledged: "Unacknowledged message", subscription: "Contact request",
  presence: "Presence", displayed: "Read mark", user_removed: "User removed", domain_removed: "Domain removed",
  notification: "Publish to the push node",
};

const CALLS = { propose: "Incoming call", retract: "The call ends", reject: "The call is declined", finish: "The call has ended" };

function title({ type, chat, call }) {
  if (call) return `Call: ${call}`;
  return type === "message" && chat === "groupchat" ? "Room message" : TITLES[type] ?? type;
}

function messageItem(message) {
  const { id, events, recipients, time } = message;
  const event = events[0];
  const item = element("li", "message");
  const head = element("p", "head", element("span", "kind", event ? title(event) : "Message"));
  if (event?.format) head.append(element("span", "", event.format));
  if (events.length > 1) head.append(element("span", "", `received ${events.length} times`));
  head.append(text(id, "id"), clock(time));
  item.append(head);
  if (event?.from || event?.to) {
    const to = some(event.to ?? []);
    item.append(element("p", "parties", text(event.from ?? ""), to ? " to " : "", to ? text(to) : ""));
  }
  const said = event?.text ?? (event?.call && CALLS[event.call]);
  if (said) item.append(element("p", "said", text(said)));
  if (event?.why) item.append(element("p", "known", text(event.why)));
  if (recipients.size > 0) item.append(element("ul", "recipients", ...recipientItems([...recipients.values()])));
  return item;
}

const LEVELS = { ERROR: "said bad", WARN: "said warn" };

function noteItem({ time, kind, format, user, text: words, level }) {
  const head = element("p", "head", element("span", "kind", kind), format, user && text(user), clock(time));
  const said = element("p", LEVELS[level] ?? "known", text(words));
  return element("li", "plain", head, said);
}

function isMessageWanted({ id, events, recipients }, filter) {
  if (filter.id && !id.includes(filter.id)) return false;
  if (!filter.user) return true;
  const users = events.flatMap(({ from, to }) => [from, ...(to ?? [])]).concat([...recipients.keys()]);
  return users.some((user) => user?.toLowerCase().includes(filter.user));
}

const isNoteWanted = ({ user }, filter) => !filter.id && (!filter.user || user?.toLowerCase().includes(filter.user));

/** The items of the feed, with the version of what they show. */
const drawn = new Map();

export function showFeed(state) {
  const { messages, notes, filter } = state;
  const entries = [...messages.values()].map((message) => ({ key: message, message })).concat(notes.map((note) => ({ key: note, note })));
  entries.sort((a, b) => b.key.order - a.key.order);
  const feed = byId("feed");
  let place = feed.firstChild;
  let shown = 0;
  for (const { key, message, note } of entries) {
    const old = drawn.get(key);
    let item = old?.item;
    if (!old || (message && old.version !== message.version)) {
      item = message ? messageItem(message) : noteItem(note);
      if (old) {
        item.classList.add("again");
        if (old.item === place) place = old.item.nextSibling;
        old.item.remove();
      }
      drawn.set(key, { item, version: message?.version });
    }
    item.hidden = !(message ? isMessageWanted(message, filter) : isNoteWanted(note, filter));
    shown += item.hidden ? 0 : 1;
    if (item === place) place = place.nextSibling;
    else feed.insertBefore(item, place);
  }
  const kept = new Set(entries.map(({ key }) => key));
  for (const [key, { item }] of drawn) {
    if (kept.has(key)) continue;
    item.remove();
    drawn.delete(key);
  }
  byId("nothing").hidden = messages.size > 0 || notes.some(({ isRequest }) => isRequest);
  byId("nothing-matches").hidden = entries.length === 0 || shown > 0;
  const waits = [...messages.values()].filter(isRetried);
  countDown(waits, state);
}

function isRetried({ recipients }) {
  return [...recipients.values()].some(({ next, ways }) => next || [...ways.values()].some((way) => way.next));
}

let counting;

/** Draws the messages that wait for a retry again each second. */
function countDown(waits, state) {
  clearTimeout(counting);
  if (waits.length === 0) return;
  counting = setTimeout(() => {
    for (const message of waits) message.version += 1;
    showFeed(state);
  }, 1000);
}

function icon(className) {
  const image = element("img");
  image.src = "/page/icon.svg";
  image.alt = "";
  return element("span", className, image);
}

/** Draws a notification as the phone's lock screen shows it. */
function card({ notification, status, time }) {
  const { alert, data } = notification;
  const isFailed = status < 200 || status > 299;
  const isCall = data?.type === "jmi";
  const app = icon("app");
  const item = element("li", "card", app);
  const foot = element("p", "foot");
  if (alert?.badge !== undefined) {
    const badge = element("span", "badge", String(alert.badge));
    badge.setAttribute("aria-hidden", "true");
    app.append(badge);
    foot.append(element("span", "hidden", `badge ${alert.badge}`));
  }
  if (alert) {
    item.append(element("p", "title", text(alert.title ?? "")), clock(time, MINUTES), element("p", "body", text(alert.body ?? "")));
  } else if (isCall) {
    item.append(element("p", "title", "Incoming call"), clock(time, MINUTES), element("p", "body", text(data["jmi-from"] ?? "")));
    foot.append("data only: the app rings");
  } else {
    item.classList.add("silent");
    const words = data?.type === "jmi-end" ? "Silent: the call ends" : "Silent: data for the app";
    item.append(element("p", "title", words), clock(time, MINUTES));
    const fields = Object.entries(data ?? {}).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
    if (fields.length > 0) item.append(element("p", "body", text(fields.join("\n"))));
  }
  if (isCall) {
    const keys = element("span", "call", element("i"), element("i"));
    keys.setAttribute("aria-hidden", "true");
    item.classList.add("rings");
    item.append(keys);
  }
  if (isFailed) {
    item.classList.add("refused");
    foot.append(element("span", "failed", `not shown: the push service answered ${status}`));
  }
  if (foot.childNodes.length > 0) item.append(foot);
  return item;
}

const NAMES = { apns: "APNs", fcm: "FCM", "web-push": "Web Push" };

function newDevice(key) {
  const parts = { name: element("h3"), state: element("span", "chip"), users: element("p"), why: element("p", "why"), cards: element("ul", "screen"), answers: element("div", "answers") };
  parts.name.id = `device-${devices.size}`;
  parts.answers.setAttribute("role", "group");
  parts.answers.append(element("span", "", "Answers"));
  parts.buttons = ANSWERS.map(([status, words]) => {
    const button = element("button", "", words);
    button.type = "button";
    button.addEventListener("click", () => setAnswer(key, status).catch(({ message }) => announce(message)));
    parts.answers.append(button);
    return { status, button };
  });
  const article = element("article", "", element("header", "", parts.name, parts.state, parts.users, parts.why), parts.cards, parts.answers);
  article.setAttribute("aria-labelledby", parts.name.id);
  parts.item = element("li", "device", article);
  return parts;
}

/** The parts of the devices, by key: they stay, so that the focus does. */
const devices = new Map();

export function showDevices({ devices: all, filter }) {
  const list = byId("devices");
  let shown = 0;
  for (const [key, device] of all) {
    if (!devices.has(key)) {
      devices.set(key, newDevice(key));
      list.prepend(devices.get(key).item);
    }
    const isWanted = drawDevice(devices.get(key), device, filter);
    shown += isWanted ? 1 : 0;
  }
  for (const [key, { item }] of devices) {
    if (all.has(key)) continue;
    item.remove();
    devices.delete(key);
  }
  byId("no-devices").hidden = shown > 0;
  byId("no-devices").textContent = all.size > 0 ? "No device matches the filter." : "No device is enabled.";
}

function setText(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

function drawDevice(parts, device, filter) {
  const { key, service, registrations, isEnabled, isSink = true, why, answer, cards } = device;
  const nodes = [...new Set(registrations.map(({ node }) => node))];
  const users = [...new Set(registrations.map(({ user }) => user))];
  setText(parts.name, nodes.join(", ") || key);
  setText(parts.users, [users.join(", "), NAMES[service] ?? service].filter(Boolean).join(" · "));
  const isDisabled = isEnabled === false;
  setText(parts.state, isEnabled ? "enabled" : isDisabled ? "disabled" : "not listed");
  parts.state.className = `chip ${isEnabled ? "good" : isDisabled ? "bad" : "none"}`;
  setText(parts.why, isEnabled || !why ? "" : why);
  parts.why.hidden = isEnabled || !why;
  parts.item.classList.toggle("off", isDisabled);
  parts.cards.className = `screen ${service === "apns" || service === "fcm" ? service : ""}`;
  parts.answers.hidden = !isSink;
  parts.answers.setAttribute("aria-label", `Answers of the push service for ${nodes.join(", ") || key}`);
  for (const { status, button } of parts.buttons) button.setAttribute("aria-pressed", String(status === answer));
  const wanted = cards.filter((one) => !filter.id || one.id?.includes(filter.id));
  const shown = wanted.slice(0, MAX_SHOWN_CARDS);
  const drawn = JSON.stringify([shown.map(({ time, id }) => [time, id]), wanted.length, isSink]);
  if (parts.drawn !== drawn) {
    parts.drawn = drawn;
    parts.cards.replaceChildren(...shown.map(card));
    if (wanted.length > shown.length) parts.cards.append(element("li", "blank", `and ${wanted.length - shown.length} earlier`));
    if (wanted.length === 0) parts.cards.append(element("li", "blank", isSink ? "No notifications" : "Notifications go to the push service itself"));
  }
  const isWanted = (!filter.user || users.some((user) => user.toLowerCase().includes(filter.user))) && (!filter.id || wanted.length > 0);
  parts.item.hidden = !isWanted;
  return isWanted;
}
