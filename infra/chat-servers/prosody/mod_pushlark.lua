-- Sends a host's events to Pushlark: messages and contact requests to its users, their presence, messages that a lost
-- session did not acknowledge (XEP-0198), read marks, answers to calls, and removed users. Forwards the users' requests to enable and disable push notifications
-- (XEP-0357) to Pushlark. Chat never waits for Pushlark: events wait in a bounded queue in memory.

local array = require "util.array";
local base64 = require "util.encodings".base64;
local datetime = require "util.datetime";
local hashes = require "util.hashes";
local http = require "net.http";
local jid = require "util.jid";
local json = require "util.json";
local modulemanager = require "core.modulemanager";
local rostermanager = require "core.rostermanager";
local st = require "util.stanza";
local time = require "util.time";
local timer = require "util.timer";
local utf8 = require "util.encodings".utf8;
local uuid = require "util.uuid";
local xml = require "util.xml";

local xmlns_push = "urn:xmpp:push:0";
local xmlns_sid = "urn:xmpp:sid:0";
local xmlns_call = "urn:xmpp:jingle-message:0";
local xmlns_markers = "urn:xmpp:chat-markers:0";
local xmlns_mds = "urn:xmpp:mds:displayed:0";
local xmlns_muc_user = "http://jabber.org/protocol/muc#user";
local xmlns_pubsub = "http://jabber.org/protocol/pubsub";

local batch_events, batch_bytes, max_stanza_bytes = 100, 512 * 1024, 200 * 1024;
local first_wait, last_wait, report_wait = 1, 60, 10;
local min_secret_bytes, max_detail_bytes = 16, 300;

-- The valid settings; nil while push is off.
local settings;

-- Returns the settings, or nil and all problems with them.
local function read_settings()
	local read, problems = { urls = {} }, array();

	local function number(name, default, is_right, expected)
		local value = module:get_option("pushlark_" .. name, default);
		read[name] = tonumber(value);
		if not read[name] or not is_right(read[name]) then
			local written = type(value) == "table" and "a list" or tostring(value);
			problems:push(("pushlark_%s must be %s, but is %s"):format(name, expected, written));
		end
	end
	local function is_count(value) return value >= 1 and value < math.huge and value % 1 == 0; end
	number("queue_size", 10000, is_count, "a whole number of at least 1");
	number("queue_bytes", 16 * 1024 * 1024, is_count, "a whole number of at least 1");
	number("timeout", 10, function (value) return value >= 1 and value <= 600; end, "between 1 and 600 seconds");

	local function url(name)
		local value = module:get_option("pushlark_" .. name);
		if value == nil or type(value) == "string" and value:match("^https?://[^%s/?#]+[^%s#]*$") then return value; end
		problems:push(("pushlark_%s must be a URL that starts with https:// or http://"):format(name));
		return false;
	end
	local base, missing = url("url"), array();
	for _, name in ipairs { "enable", "disable", "events" } do
		local own = url(name .. "_url");
		if own == nil and base == nil then missing:push("pushlark_" .. name .. "_url"); end
		read.urls[name] = own or base and base:gsub("/+$", "") .. "/" .. name;
	end

	if #missing > 0 then problems:push("neither pushlark_url nor " .. missing:concat(", ") .. " is set"); end

	local secret = module:get_option("pushlark_secret");
	if type(secret) == "string" then
		secret = secret:match("^%s*(.-)%s*$");
		local encoded = secret:match("^whsec_(.*)");
		read.key = encoded and base64.decode(encoded) or secret;
		if encoded and base64.encode(read.key) ~= encoded then
			problems:push("pushlark_secret must be base64 after whsec_");
		elseif #read.key < min_secret_bytes then
			problems:push(("pushlark_secret must have at least %d bytes"):format(min_secret_bytes));
		end
	elseif secret ~= nil then
		problems:push("pushlark_secret must be a string");
	end

	read.csi_events = module:get_option("pushlark_csi_events", false);
	if type(read.csi_events) ~= "boolean" then problems:push("pushlark_csi_events must be true or false"); end

	if #problems > 0 then return nil, problems:concat("; "); end
	return read;
end

-- Removes user, password and query from a URL, for the log.
local function shown(url)
	return (url:gsub("//[^/@]*@", "//"):gsub("%?.*", ""));
end

-- Makes a text from outside safe to log: one line, limited length.
local function cleaned(text)
	if not utf8.valid(text) then text = text:gsub("[\128-\255]", "?"); end
	text = text:gsub("\194[\128-\159]", " "):gsub("%c+", " ");
	if #text <= max_detail_bytes then return text; end
	return (text:sub(1, max_detail_bytes):gsub("[\192-\255][\128-\191]*$", "")) .. "…";
end

-- Returns the problem details (RFC 9457) of a response from Pushlark, or nil.
local function problem_of(body, response)
	if not (response.headers["content-type"] or ""):find("^application/problem%+json") then return nil; end
	local problem = json.decode(body);
	return type(problem) == "table" and problem or nil;
end

local reasons = {
	["certificate-chain-invalid"] = "the certificate is not trusted";
	["certificate-verify-failed"] = "the certificate is for another host name";
	["connection-closed"] = "the connection was closed";
	["closed"] = "the connection was closed";
	["unable to resolve service"] = "the host name cannot be resolved";
};

-- Describes a failure for the log: no response, or an unexpected status.
local function described(body, code, response)
	if code == 0 then
		local reason = tostring(body or "closed");
		return ("no response (%s)"):format(cleaned(reasons[reason] or reason));
	end
	local problem = problem_of(body, response);
	local reason;
	if problem then
		reason = cleaned(tostring(problem.detail or problem.title or "no detail"));
	elseif response.headers.location and code >= 300 and code < 400 then
		reason = "redirect to " .. shown(cleaned(response.headers.location));
	else
		reason = "not a Pushlark response: " .. cleaned(response.headers["content-type"] or "no content type");
	end
	return ("status %d (%s)"):format(code, reason);
end

-- Returns the error text for the client.
local function explained(code)
	if code == 0 then return "Push is not available now: the push service does not respond. Try again later"; end
	if code == 401 or code == 403 then
		return "Push is not available: the push service refuses this server. The server's operator must check the secret";
	end
	if code == 429 or code >= 500 then return "Push is not available now: the push service is busy. Try again later"; end
	return "Push is not available: there is no push service at its URL. The server's operator must check the URL";
end

-- Prosody still sends a cancelled request that waits for a connection, so its content is removed.
local function cancel(request)
	request.headers, request.body = {}, nil;
	http.destroy_request(request);
end

-- Posts a body. id is the same in each retry (Standard Webhooks). Returns the request, or nil if the callback has run.
local function post(name, content_type, id, body, callback)
	local headers = { ["Content-Type"] = content_type };
	if settings.key then
		local timestamp = tostring(os.time());
		local signature = hashes.hmac_sha256(settings.key, id .. "." .. timestamp .. "." .. body);
		headers["Webhook-Id"], headers["Webhook-Timestamp"] = id, timestamp;
		headers["Webhook-Signature"] = "v1," .. base64.encode(signature);
	end
	local url, seconds = settings.urls[name], settings.timeout;
	local request, timeout;
	local function answered(...)
		if not callback then return; end
		local call = callback;
		callback = nil;
		if timeout then timer.stop(timeout); end
		call(url, ...);
	end
	request = http.request(url, { method = "POST", headers = headers, body = body }, answered);
	-- Prosody 0.12 has no timeout for requests.
	timeout = callback and timer.add_task(seconds, function ()
		answered(("timeout of %g seconds"):format(seconds), 0);
		cancel(request);
	end);
	return callback and request;
end

-- The queue: JSON events from index first (the oldest) to last, their size in bytes, and the number of events dropped
-- since the last report.
local waiting, first, last, waiting_bytes, dropped = {}, 1, 0, 0, 0;
-- The one batch in flight: its request, or the timer of its next retry with the wait in seconds.
local batch, request, retry, wait;
-- Whether the last request was accepted.
local is_accepted;
local next_batch;

local function count_waiting()
	return last - first + 1;
end

local function take_oldest()
	local event = waiting[first];
	waiting[first] = nil;
	first = first + 1;
	waiting_bytes = waiting_bytes - #event;
	return event;
end

local function batch_is_done()
	batch, wait = nil, nil;
	next_batch();
end

-- Returns the events of the batch that a problem does not list as bad (indexes from 0); none if it lists none.
local function good_events(problem)
	local bad, good = {}, array();
	for _, problem_event in ipairs(type(problem.errors) == "table" and problem.errors or {}) do
		if type(problem_event) == "table" and problem_event.index then bad[problem_event.index] = true; end
	end
	for index, event in ipairs(batch.events) do
		if not bad[index - 1] then good:push(event); end
	end
	return #good < #batch.events and good or array();
end

local function send_batch()
	local sent = batch;
	retry = nil;
	local text = "[" .. batch.events:concat(",") .. "]";
	request = post("events", "application/json", batch.id, text, function (url, body, code, response)
		-- After a reload, another instance of the module has the batch.
		if batch ~= sent then return; end
		request = nil;
		if code == 202 then
			if not is_accepted then module:log("info", "Pushlark accepts events at %s", shown(url)); end
			is_accepted = true;
			return batch_is_done();
		end
		-- Bad events stay bad, so they are dropped. Other failures are retried: even a wrong secret can be corrected.
		local problem = (code == 400 or code == 413 or code == 415) and problem_of(body, response);
		if problem then
			local good = good_events(problem);
			module:log("error", "%d events lost: refused by %s: %s",
				#batch.events - #good, shown(url), described(body, code, response));
			if #good == 0 then return batch_is_done(); end
			batch = { id = uuid.generate(), events = good };
			return send_batch();
		end
		is_accepted = false;
		wait = math.min(wait and wait * 2 or first_wait, last_wait);
		local asked = tonumber(response and response.headers and response.headers["retry-after"]);
		local seconds = math.max(first_wait, math.min(asked or wait, last_wait)) * (0.75 + math.random() / 2);
		module:log("warn", "Events not accepted by %s: %s; %d events waiting, retry in %.0f s",
			shown(url), described(body, code, response), #batch.events + count_waiting(), math.max(1, seconds));
		retry = module:add_timer(seconds, send_batch);
	end) or nil;
end

function next_batch()
	if not settings or batch or count_waiting() == 0 then return; end
	local events, bytes = array(), 0;
	repeat
		local event = take_oldest();
		events:push(event);
		bytes = bytes + #event;
	until #events == batch_events or count_waiting() == 0 or bytes + #waiting[first] > batch_bytes;
	batch = { id = uuid.generate(), events = events };
	send_batch();
end

local function report_dropped()
	if dropped == 0 then return; end
	module:log("error", "%d events lost: the queue is full (pushlark_queue_size is %d, pushlark_queue_bytes is %d)",
		dropped, settings.queue_size, settings.queue_bytes);
	dropped = 0;
end

local function stop_sending()
	if request then cancel(request); end
	if retry then retry:stop(); end
	request, retry = nil, nil;
end

local function report_lost()
	report_dropped();
	local lost = count_waiting() + (batch and #batch.events or 0);
	if lost > 0 then module:log("error", "%d events lost: the module stopped before they were sent", lost); end
end
module:hook_global("server-stopping", report_lost);

function module.unload()
	if not module.reloading then report_lost(); end
	stop_sending();
	batch = nil;
end

-- A reload of the module keeps the queue.
function module.save()
	report_dropped();
	local events = array();
	for index = first, last do events:push(waiting[index]); end
	return { batch = batch, waiting = events };
end

function module.restore(saved)
	batch = saved.batch;
	for _, event in ipairs(saved.waiting or {}) do
		last = last + 1;
		waiting[last] = event;
		waiting_bytes = waiting_bytes + #event;
	end
	if settings and batch then send_batch(); end
	next_batch();
end

-- Adds an event, and drops the oldest events if the queue is full. One event always fits.
local function enqueue(event)
	while count_waiting() > 0
			and (count_waiting() >= settings.queue_size or waiting_bytes + #event > settings.queue_bytes) do
		take_oldest();
		if dropped == 0 then module:add_timer(report_wait, report_dropped); end
		dropped = dropped + 1;
	end
	last = last + 1;
	waiting[last] = event;
	waiting_bytes = waiting_bytes + #event;
end

local function send_event(event)
	local now = time.now();
	event.at = datetime.datetime(math.floor(now)):gsub("Z$", ("%.6fZ"):format(now % 1):sub(2));
	enqueue(json.encode(event));
	next_batch();
end

-- Prosody's own push module answers the same requests, and sends notifications itself.
local function report_other()
	if modulemanager.is_loaded(module.host, "cloud_notify") then
		module:log("error", "this host also has mod_cloud_notify, so users may be notified twice: unload one push module");
		return true;
	end
end

local is_other_reported;

-- Forwards requests to enable and disable push to Pushlark, and its responses to the client.
local function forward(name)
	return function (event)
		local origin, stanza = event.origin, event.stanza;
		if origin.type ~= "c2s" then return; end
		is_other_reported = is_other_reported or report_other();
		local request = st.clone(stanza);
		request.attr.from = origin.full_jid;
		post(name, "application/xmpp+xml", uuid.generate(), tostring(request), function (url, body, code, response)
			local reply = code == 200 and xml.parse(body);
			if not reply or reply.name ~= "iq" or reply.attr.id ~= stanza.attr.id then
				module:log("warn", "Request to %s push failed at %s: %s; the client may retry",
					name, shown(url), described(body, code, response));
				return origin.send(st.error_reply(stanza, "wait", "resource-constraint", explained(code)));
			end
			reply.attr.xmlns, reply.attr.to = nil, origin.full_jid;
			origin.send(reply);
		end);
		return true;
	end
end

-- Presence. A hibernating session is still online; on_hibernating sends the messages that it misses.
local function is_online(session)
	return session.presence and (session.priority or 0) >= 0;
end

-- The client of a lost session cannot be reached until the session is resumed.
local function send_presence(session, online)
	local state = (session.hibernating or session.pushlark_inactive) and "inactive" or "active";
	send_event {
		type = "presence", jid = session.full_jid, status = online and "online" or "offline", client_state = online and state or nil
	};
end

local function sessions_of(username)
	local user = prosody.hosts[module.host].sessions[username];
	return user and user.sessions or {};
end

-- Before a call: a device whose session is online and active rings without a notification.
local function send_all_presence(username)
	for _, session in pairs(sessions_of(username)) do
		if is_online(session) then send_presence(session, true); end
	end
end

-- The state of a client (XEP-0352), which does not depend on its presence.
local function on_client_state(is_inactive)
	return function (event)
		local session = event.origin;
		session.pushlark_inactive = is_inactive;
		if settings.csi_events and session.full_jid and is_online(session) then send_presence(session, true); end
	end
end

-- A resumed client is active until it says otherwise.
local function on_resumption(event)
	event.origin.pushlark_inactive = nil;
	if event.resumed then event.resumed.pushlark_inactive = nil; end
end

local function on_presence(event)
	local session, stanza = event.origin, event.stanza;
	if not session.full_jid or stanza.attr.to then return; end
	if stanza.attr.type == "unavailable" then
		send_presence(session, false);
	elseif not stanza.attr.type then
		send_presence(session, (tonumber(stanza:get_child_text("priority")) or 0) >= 0);
	end
end

local function on_unbind(event)
	if event.session.full_jid then send_presence(event.session, false); end
end

-- Messages. The host adds a stanza-id (XEP-0359) to each, so that a repeat after a lost session has the same id.
local function stanza_id(stanza, by)
	for sid in stanza:childtags("stanza-id", xmlns_sid) do
		if sid.attr.by == by then return sid.attr.id; end
	end
end

local function id_of(stanza)
	return stanza_id(stanza, module.host);
end

-- A room sends one message to each session of a user, with the same stanza-id.
local function new_id(stanza)
	local room = jid.bare(stanza.attr.from);
	local id = stanza.attr.type == "groupchat" and stanza_id(stanza, room);
	local known = id and room .. "/" .. id;
	return known and #known <= 256 and known or uuid.generate();
end

-- The namespaces of children that have no effect at Pushlark if the message has no other child.
local without_effect = {
	["http://jabber.org/protocol/chatstates"] = true; ["urn:xmpp:receipts"] = true; [xmlns_markers] = true;
	["urn:xmpp:hints"] = true; [xmlns_sid] = true; ["urn:xmpp:occupant-id:0"] = true; ["urn:xmpp:delay"] = true;
	["jabber:x:delay"] = true; ["urn:xmpp:carbons:2"] = true; ["urn:xmpp:mam:2"] = true;
};
-- The steps of a call (XEP-0353) by which a user's device answers. Those of others have no effect.
local answers = { accept = true; proceed = true; reject = true };

local function has_effect(tag, is_own)
	local xmlns, name = tag.attr.xmlns, tag.name;
	if xmlns == nil or xmlns == "jabber:client" then
		return name == "body" and tag:get_text() ~= "";
	elseif xmlns == xmlns_call then
		return name ~= "ringing" and (is_own or not answers[name]);
	elseif xmlns == xmlns_muc_user then
		return tag:get_child("invite") ~= nil;
	elseif xmlns == xmlns_pubsub .. "#event" then
		local items = tag:get_child("items");
		return items ~= nil and items.attr.node == "urn:xmpp:mucsub:nodes:messages";
	end
	return not without_effect[xmlns];
end

-- Prosody removes the address of a message from a user to the own bare JID.
local function recipient_of(stanza)
	return jid.bare(stanza.attr.to or stanza.attr.from);
end

local function is_notifiable(stanza)
	local kind = stanza.attr.type or "normal";
	if not stanza.attr.from or kind ~= "chat" and kind ~= "groupchat" and kind ~= "normal" then return false; end
	local is_own = jid.bare(stanza.attr.from) == recipient_of(stanza);
	for _, tag in ipairs(stanza.tags) do
		if has_effect(tag, is_own) then return true; end
	end
	return false;
end

local function send_message(kind, to, stanza, recipient)
	local text = tostring(stanza);
	if #text > max_stanza_bytes then
		return module:log("warn", "message of %d bytes to %s not sent to Pushlark: it is too large", #text, to);
	end
	send_event { type = kind, id = id_of(stanza), from = stanza.attr.from, to = to, stanza = text, recipient = recipient };
end

-- The nicks of a session in rooms, as the rooms confirm them (XEP-0045, status code 110).
local function on_room_presence(event)
	local stanza = event.stanza;
	local x, session = stanza:get_child("x", xmlns_muc_user), prosody.full_sessions[stanza.attr.to];
	if not x or not session then return; end
	for status in x:childtags("status") do
		if status.attr.code == "110" then
			session.pushlark_nicks = session.pushlark_nicks or {};
			local room, nick = jid.bare(stanza.attr.from), jid.resource(stanza.attr.from);
			session.pushlark_nicks[room] = not stanza.attr.type and nick or nil;
		end
	end
end

local function nick_of(session, stanza)
	local nicks = stanza.attr.type == "groupchat" and session and session.pushlark_nicks;
	return nicks and nicks[jid.bare(stanza.attr.from)] or nil;
end

-- Returns the field recipient of an event. The lost session does not count as online. The user is inactive if the clients
-- of all sessions are.
local function recipient(username, lost, nick)
	local online, active = false, false;
	for _, session in pairs(sessions_of(username)) do
		if session ~= lost and is_online(session) then
			online = true;
			active = active or not session.pushlark_inactive;
		end
	end
	local state = online and (active and "active" or "inactive") or nil;
	return { exists = true, online = online, client_state = state, nick = nick };
end

local function on_message(event)
	local stanza = event.stanza;
	local username, host = jid.split(recipient_of(stanza));
	if not username or not is_notifiable(stanza) then return; end
	if not require "core.usermanager".user_exists(username, host) then return; end
	local marked = st.clone(stanza);
	marked:maptags(function (tag)
		if tag.name == "stanza-id" and tag.attr.xmlns == xmlns_sid and tag.attr.by == module.host then return nil; end
		return tag;
	end);
	marked:tag("stanza-id", { xmlns = xmlns_sid, by = module.host, id = new_id(stanza) }):up();
	event.stanza = marked;
	if marked:get_child("propose", xmlns_call) then send_all_presence(username); end
	local nick = nick_of(prosody.full_sessions[stanza.attr.to], stanza);
	send_message("message", recipient_of(marked), marked, recipient(username, nil, nick));
end

-- What a session sends. A displayed marker (XEP-0333) is a read mark. An answer to a call is an event for the user, so that
-- the user's other devices stop ringing.
local function on_sent(event)
	local session, stanza = event.origin, event.stanza;
	if session.type ~= "c2s" or not session.full_jid or not stanza.attr.to or stanza.attr.type == "error" then return; end
	local user, other = jid.bare(session.full_jid), jid.bare(stanza.attr.to);
	-- on_message sends what the user sends to the own bare JID.
	if other == user then return; end
	local displayed = stanza:get_child("displayed", xmlns_markers);
	if displayed and displayed.attr.id then
		send_event { type = "read", jid = user, conversation = other, message = displayed.attr.id };
	end
	local step = stanza:get_child(nil, xmlns_call);
	if step and answers[step.name] then
		send_event {
			type = "message", id = uuid.generate(), from = session.full_jid, to = user, stanza = tostring(stanza),
			recipient = recipient(session.username),
		};
	end
end

-- A read mark of the user that all of the user's clients see (XEP-0490). The id of the item is the conversation.
local function on_published(event)
	local session, stanza = event.origin, event.stanza;
	if session.type ~= "c2s" or stanza.attr.type ~= "set" or stanza.attr.to and stanza.attr.to ~= jid.bare(session.full_jid) then
		return;
	end
	local publish = stanza.tags[1]:get_child("publish");
	local item = publish and publish.attr.node == xmlns_mds and publish:get_child("item");
	local conversation = item and item.attr.id and jid.prep(item.attr.id);
	local id = item and item:find("{" .. xmlns_mds .. "}displayed/{" .. xmlns_sid .. "}stanza-id@id");
	if conversation and id then
		send_event { type = "read", jid = jid.bare(session.full_jid), conversation = conversation, message = id };
	end
end

-- A contact request, once: until the user answers it, repeats have no effect.
local function on_subscription(event)
	local stanza = event.stanza;
	if stanza.attr.type ~= "subscribe" then return; end
	local username, host = jid.split(stanza.attr.to);
	local contact = jid.bare(stanza.attr.from);
	if not username or not require "core.usermanager".user_exists(username, host) then return; end
	for _, is_known in ipairs { "is_contact_subscribed", "is_contact_pending_in", "is_contact_preapproved" } do
		if rostermanager[is_known](username, host, contact) then return; end
	end
	send_event {
		type = "subscription", from = contact, to = jid.join(username, host), recipient = recipient(username)
	};
end

-- Messages that a session did not acknowledge before it was lost, and those that arrive while it is lost.
local function send_unacknowledged(session, stanza)
	if stanza.name == "message" and not stanza.attr.xmlns and is_notifiable(stanza) and id_of(stanza) then
		local nick = nick_of(session, stanza);
		send_message("unacknowledged", session.full_jid, stanza, nick and { nick = nick });
	end
end

local function on_hibernation(event)
	for _, stanza in ipairs(event.queue) do send_unacknowledged(event.origin, stanza); end
end

local function on_hibernating(event)
	send_unacknowledged(event.origin, event.stanza);
end

-- The session was given up: the message goes to the user again, who may be offline by now.
local function on_failure(event)
	local session, stanza = event.session, event.stanza;
	if session.username and stanza.name == "message" and is_notifiable(stanza) and id_of(stanza) then
		send_unacknowledged(session, stanza);
		local nick = nick_of(session, stanza);
		send_message("message", jid.bare(session.full_jid), stanza, recipient(session.username, session, nick));
	end
end

local function on_removal(event)
	if event.host == module.host then
		send_event { type = "user_removed", jid = jid.join(event.username, event.host) };
	end
end

local function start()
	for _, name in ipairs { "enable", "disable" } do
		-- Before mod_cloud_notify.
		module:hook("iq-set/self/" .. xmlns_push .. ":" .. name, forward(name), 1);
		module:hook("iq-set/host/" .. xmlns_push .. ":" .. name, forward(name), 1);
	end
	module:add_feature(xmlns_push);
	module:hook("account-disco-info", function (event)
		(event.reply or event.stanza):tag("feature", { var = xmlns_push }):up();
	end);
	module:hook("pre-presence/bare", on_presence, 10);
	module:hook("resource-unbind", on_unbind);
	module:hook("csi-client-active", on_client_state(nil));
	module:hook("csi-client-inactive", on_client_state(true));
	module:hook("smacks-hibernation-end", on_resumption);
	-- After mod_blocklist, and before the modules that store or deliver a stanza.
	for _, kind in ipairs { "bare", "full" } do
		module:hook("message/" .. kind, on_message, 50);
		module:hook("presence/" .. kind, on_subscription, 50);
		module:hook("pre-message/" .. kind, on_sent, 50);
	end
	module:hook("presence/full", on_room_presence, 50);
	-- Before mod_pep.
	module:hook("iq/bare/" .. xmlns_pubsub .. ":pubsub", on_published, 1);
	module:hook("smacks-hibernation-start", on_hibernation);
	module:hook("smacks-hibernation-stanza-queued", on_hibernating);
	module:hook("delivery/failure", on_failure, 100);
	module:hook_global("user-deleted", on_removal);
	module:hook("module-loaded", function (event)
		if event.module == "cloud_notify" then report_other(); end
	end);
	report_other();
end

-- Without valid settings push is off, and chat goes on.
local function configure()
	local read, problems = read_settings();
	if not read then
		return module:log("error", "%s: %s", settings and "Settings not changed" or "Push is off", problems);
	end
	if not read.key then
		module:log("warn", "pushlark_secret is not set: only a Pushlark without WEBHOOK_SECRET accepts unsigned requests");
	end
	local was_off = not settings;
	settings = read;
	if was_off then start(); end
	-- Retry at once, since the new settings may be the right ones.
	wait = nil;
	if retry then
		retry:stop();
		send_batch();
	end
	next_batch();
end
module:hook_global("config-reloaded", configure);
configure();
