// Follows the stream of the stack, and keeps what it says by message and by device.

import { connectForms } from "./forms.js";
import { announce, showConnection, showDevices, showFeed, showRegistrationsArePartial } from "./view.js";

const MAX_MESSAGES = 200;
const MAX_NOTES = 200;
const MAX_CARDS = 50;

const state = {
  /** By id, in the order of arrival. */
  messages: new Map(),
  /** Requests and log lines that are about no message. */
  notes: [],
  /** By token, or by user, host and node if the token is not known. */
  devices: new Map(),
  filter: { user: "", id: "" },
};

let order = 0;
let isDrawn = true;
let isListing = false;
let mustListAgain = false;

function reset() {
  state.messages.clear();
  state.notes.length = 0;
  state.devices.clear();
}

/** Draws at most ten times a second, so that the page answers its user while much happens. */
function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  setTimeout(() => requestAnimationFrame(() => {
    isDrawn = true;
    showFeed(state);
    showDevices(state);
  }), 100);
}

function message(id, time) {
  let found = state.messages.get(id);
  if (!found) {
    found = { id, time, order: (order += 1), events: [], recipients: new Map(), version: 0 };
    state.messages.set(id, found);
    if (state.messages.size > MAX_MESSAGES) state.messages.delete(state.messages.keys().next().value);
  }
  found.version += 1;
  return found;
}

function recipient(id, user, time) {
  const { recipients } = message(id, time);
  if (!recipients.has(user)) recipients.set(user, { user, ways: new Map() });
  return recipients.get(user);
}

/** The way of one registration of a recipient to its device. */
function way(line) {
  const { ways } = recipient(line.id, line.to, line.time);
  const key = `${line.jid}/${line.node}`;
  if (!ways.has(key)) ways.set(key, { jid: line.jid, node: line.node });
  return ways.get(key);
}

function note(content) {
  order += 1;
  state.notes.push({ order, ...content });
  if (state.notes.length > MAX_NOTES) state.notes.shift();
}

const steps = {
  "not queued"(line) {
    recipient(line.id, line.to, line.time).reason = line.reason;
  },
  decided(line) {
    const decided = recipient(line.id, line.to, line.time);
    delete decided.next;
    decided.reason = line.skipped ?? line.reason;
    if (line.registrations !== undefined) decided.known = line;
  },
  "left out"(line) {
    const { jid, node } = line;
    const left = way(line);
    // A repeat of a message finds that it has notified the device already.
    if (left.result !== "delivered") Object.assign(left, { jid, node, result: "left out", why: line.reason });
  },
  chosen(line) {
    const chosen = way(line);
    Object.assign(chosen, { result: "chosen", rule: line.rule, quiet: line.quiet, why: undefined });
    delete chosen.next;
  },
  published(line) {
    const published = line.to && line.id ? way(line) : {};
    published.tries = (published.tries ?? 0) + 1;
    Object.assign(published, { result: line.result, why: line.reason });
    const device = state.devices.get(line.device_id);
    const card = device?.cards.find((card) => !card.id);
    if (card) Object.assign(card, { id: line.id, user: line.to });
    if (device && line.result === "gone") device.why = line.reason;
  },
  "put back"(line) {
    const next = Date.parse(line.time) + line.seconds * 1000;
    if (line.node !== undefined) way(line).next = next;
    else if (line.to) recipient(line.id, line.to, line.time).next = next;
  },
};

const results = new Set(["notified", "not notified", "cleared", "not cleared"]);

const handlers = {
  stack({ is_resumed, needs_secret }) {
    if (!is_resumed) reset();
    document.getElementById("secret-form").hidden = !needs_secret;
    listRegistrations();
  },
  request(request) {
    const { function: name, events, time, format, status, problem } = request;
    if (events?.length) {
      for (const event of events) {
        const one = message(event.id, time);
        one.events.push({ ...event, format, time });
        one.time = time;
        for (const to of event.to ?? []) addUser(to);
      }
      if (request.accepted > events.length) {
        note({ time, kind: "events", text: `${request.accepted - events.length} further events of a request` });
      }
      return;
    }
    if (name === "events" && !problem) {
      note({ time, kind: "events", format, text: `${request.accepted} events, too large to show`, isRequest: true });
      return;
    }
    const { user, jid, node, service, action, to } = request;
    const about = [action ?? name, node && `node ${node}`, jid && `at ${jid}`, service && `by ${service}`, to && `to ${to}`];
    const said = about.filter(Boolean).join(" ");
    const text = action && problem ? `${said}: ${problem}` : problem ? `${problem} (${status})` : said;
    note({ time, kind: name, format, user, text, level: problem && "ERROR", isRequest: true });
    if (user) addUser(user.split("/")[0]);
    if (name !== "events") listRegistrations();
  },
  log(line) {
    const { id, message: text, level, to, time } = line;
    if (results.has(text)) {
      const done = state.messages.get(id);
      if (done) done.version += 1;
      announce(to ? `${to}: ${text}` : `${line.recipients ?? "several"} recipients: ${text}`);
      return;
    }
    if (text === "disabled" || text === "removed" || text?.startsWith("disabled:")) listRegistrations();
    if (id && to) {
      const lines = (recipient(id, to, time).lines ??= []);
      lines.push({ level, text: [text, line.reason ?? line.error].filter(Boolean).join(": ") });
    } else if (level !== "INFO" && text !== "a request is refused") {
      // The request itself has the reason.
      note({ time, kind: line.target.split("::")[0], user: line.user, level,
        text: [text, line.reason ?? line.error].filter(Boolean).join(": ") });
    }
  },
  step(line) {
    steps[line.message]?.(line);
  },
  notification({ device_id, api, status, notification, time }) {
    const device = deviceOf(device_id, { service: notification.service });
    device.cards.unshift({ api, status, notification, time });
    device.cards.length = Math.min(device.cards.length, MAX_CARDS);
  },
  device({ device_id, status }) {
    deviceOf(device_id, {}).answer = status;
  },
};

function deviceOf(key, fields) {
  if (!state.devices.has(key)) state.devices.set(key, { key, answer: 200, cards: [], registrations: [] });
  return Object.assign(state.devices.get(key), fields);
}

function addUser(user) {
  const list = document.getElementById("users");
  if ([...list.children].some((option) => option.value === user)) return;
  const option = document.createElement("option");
  option.value = user;
  list.append(option);
  if (list.children.length > 100) list.firstChild.remove();
}

/**
 * Reads the registrations as they are now. A device that has none any more is disabled; if not all are listed, that is
 * known only of a device that is gone.
 */
async function listRegistrations() {
  if (isListing) {
    mustListAgain = true;
    return;
  }
  isListing = true;
  do {
    mustListAgain = false;
    try {
      const response = await fetch("/live/registrations");
      if (!response.ok) break;
      const { registrations, is_partial } = await response.json();
      const listed = Map.groupBy(registrations, (one) => one.device_id ?? `${one.user}/${one.jid}/${one.node}`);
      for (const [key, of_device] of listed) {
        const device = deviceOf(key, { service: of_device[0].service, isSink: of_device[0].device_id !== undefined });
        device.why = undefined;
        device.registrations = of_device;
        device.isEnabled = true;
        for (const { user } of of_device) addUser(user);
      }
      for (const [key, device] of state.devices) {
        if (!listed.has(key)) device.isEnabled = is_partial && !device.why ? undefined : false;
      }
      showRegistrationsArePartial(is_partial);
      draw();
    } catch {
      // The stream connects again, and then they are listed.
      break;
    }
  } while (mustListAgain);
  isListing = false;
}

function follow() {
  const stream = new EventSource("/live");
  stream.addEventListener("open", () => showConnection("live", "live"));
  stream.addEventListener("error", () => showConnection("lost", "not connected"));
  for (const [name, handle] of Object.entries(handlers)) {
    stream.addEventListener(name, ({ data }) => {
      handle(JSON.parse(data));
      draw();
    });
  }
}

function watchFilter() {
  const [user, id] = ["filter-user", "filter-id"].map((name) => document.getElementById(name));
  const apply = () => {
    state.filter = { user: user.value.trim().toLowerCase(), id: id.value.trim() };
    draw();
  };
  document.getElementById("filter").addEventListener("input", apply);
  document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
  apply();
}

watchFilter();
connectForms();
follow();
