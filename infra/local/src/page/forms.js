// The forms: a message, a room message, a call, a device, and the answers of the push service double.

let lastCall;

const secret = () => document.getElementById("secret").value;

async function request(method, path, content) {
  const headers = { "Content-Type": "application/json" };
  if (secret()) headers.Authorization = `Bearer ${secret()}`;
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(content) });
  } catch {
    throw new Error("The stack does not answer.");
  }
  const text = await response.text();
  if (response.ok) return text ? JSON.parse(text) : {};
  let detail = text;
  try {
    const problem = JSON.parse(text);
    detail = problem.detail ?? problem.title;
  } catch {
    // The text is the reason.
  }
  throw new Error(`${response.status}: ${detail || response.statusText}`);
}

/** Sets the status with which the push service double answers for a device from then on. */
export function setAnswer(token, status) {
  return request("PUT", `/sink/devices/${encodeURIComponent(token)}`, { status, body: reasons[status] ?? {} });
}

const reasons = { 410: { reason: "unregistered" }, 503: { reason: "service_unavailable" } };

const JMI = "urn:xmpp:jingle-message:0";

/** Builds the stanza of a step of a call (XEP-0353) as XML. */
function callStanza(step, sid, media) {
  const stanza = document.implementation.createDocument("", "message");
  stanza.documentElement.setAttribute("type", "chat");
  const element = stanza.createElementNS(JMI, step);
  element.setAttribute("id", sid);
  if (media) {
    const description = stanza.createElementNS("urn:xmpp:jingle:apps:rtp:1", "description");
    description.setAttribute("media", media);
    element.append(description);
  }
  stanza.documentElement.append(element);
  return new XMLSerializer().serializeToString(stanza);
}

function eventOf({ kind, from, room, nick, to, text, media }) {
  const all = to.split(",").map((user) => user.trim()).filter(Boolean);
  if (kind === "room") return { type: "message", from: `${room}/${nick}`, to: all, chat: "groupchat", body: text };
  if (kind === "message") return { type: "message", from, to: all, chat: "chat", body: text };
  lastCall = { from, to: all, sid: crypto.randomUUID() };
  return { type: "message", from, to: all, stanza: callStanza("propose", lastCall.sid, media) };
}

function onSubmit(form, act) {
  const result = form.querySelector(".result");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    show(result, await act(Object.fromEntries(new FormData(form))).then((text) => ({ text }), (error) => ({ error })));
  });
}

function show(result, { text, error }) {
  result.textContent = error ? error.message : text;
  result.classList.toggle("failed", Boolean(error));
}

async function send(event) {
  const { ids } = await request("POST", "/events", event);
  return `Accepted as ${ids.join(", ")}.`;
}

async function enable({ user, node, service, device_id, jid }) {
  const domain = user.split("/")[0].split("@").pop();
  const token = device_id || `${user.split("@")[0]}-${node}`;
  const form = { service, device_id: token };
  const { notice } = await request("POST", "/enable", { user, jid: jid || `push.${domain}`, node, form });
  return notice ? `Enabled, but ${notice}.` : "Enabled.";
}

export function connectForms() {
  const [form, endCall] = ["send", "end-call"].map((id) => document.getElementById(id));
  const showKind = () => {
    const { kind } = Object.fromEntries(new FormData(form));
    for (const part of form.querySelectorAll("[data-kinds]")) {
      const isOfKind = part.dataset.kinds.split(" ").includes(kind);
      part.hidden = !isOfKind || (part === endCall && !lastCall);
      // A field that is not shown is not required.
      for (const field of part.querySelectorAll("input, select")) field.disabled = !isOfKind;
    }
  };
  form.addEventListener("change", showKind);
  showKind();
  onSubmit(form, async (fields) => {
    const sent = await send(eventOf(fields));
    showKind();
    return sent;
  });
  endCall.addEventListener("click", async () => {
    const { from, to, sid } = lastCall;
    const event = { type: "message", from, to, stanza: callStanza("retract", sid) };
    show(form.querySelector(".result"), await send(event).then((text) => ({ text }), (error) => ({ error })));
  });
  onSubmit(document.getElementById("enable"), enable);
  document.getElementById("secret-form").addEventListener("submit", (event) => event.preventDefault());
}
