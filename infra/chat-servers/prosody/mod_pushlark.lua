-- Tells Pushlark what happens at a host: messages to its users, their presence, what a lost session did not acknowledge
-- (XEP-0198), and users that are removed; and lets Pushlark answer the users' requests to enable and disable push
-- notifications (XEP-0357). Nothing waits for Pushlark: events are queued in memory, within a bound.

local array = require "util.array";
local base64 = require "util.encodings".base64;
local datetime = require "util.datetime";
local hashes = require "util.hashes";
local http = require "net.http";
local jid = require "util.jid";
local json = require "util.json";
local queue = require "util.queue";
local st = require "util.stanza";
local time = require "util.time";
local timer = require "util.timer";
local uuid = require "util.uuid";
local xml = require "util.xml";

local xmlns_push = "urn:xmpp:push:0";
local xmlns_sid = "urn:xmpp:sid:0";

local base_url = module:get_option_string("pushlark_url");
local urls = {};
for _, name in ipairs { "enable", "disable", "events" } do
	urls[name] = module:get_option_string("pushlark_" .. name .. "_url", base_url and base_url .. "/" .. name);
	if not urls[name] then error("pushlark_url, or pushlark_" .. name .. "_url, must be set"); end
end
local secret = module:get_option_string("pushlark_secret");
local key = secret and (secret:match("^whsec_") and base64.decode(secret:sub(7)) or secret);
local timeout = module:get_option_number("pushlark_timeout", 10);
local queue_size = module:get_option_number("pushlark_queue_size", 10000);
local queue_bytes = module:get_option_number("pushlark_queue_bytes", 16 * 1024 * 1024);

local batch_events, batch_bytes, max_stanza_bytes = 100, 512 * 1024, 200 * 1024;
local first_wait, last_wait, report_wait = 1, 60, 10;

-- Posts a body; id names it in every try (Standard Webhooks).
local function post(url, content_type, id, body, callback)
	local headers = { ["Content-Type"] = content_type };
	if key then
		local timestamp = tostring(os.time());
		local signature = hashes.hmac_sha256(key, id .. "." .. timestamp .. "." .. body);
		headers["Webhook-Id"], headers["Webhook-Timestamp"] = id, timestamp;
		headers["Webhook-Signature"] = "v1," .. base64.encode(signature);
	end
	http.request(url, { method = "POST", headers = headers, body = body, timeout = timeout }, callback);
end

-- Events that wait, how many bytes they have, and how many were dropped since the last report; the one batch that is on its
-- way.
local waiting, waiting_bytes, dropped = queue.new(queue_size), 0, 0;
local batch, wait;
local next_batch;

local function take_oldest()
	local event = waiting:pop();
	waiting_bytes = waiting_bytes - #event;
	return event;
end

local function batch_is_done()
	batch, wait = nil, nil;
	next_batch();
end

-- Which events of the batch Pushlark calls bad, by their index from 0; all, where it does not say.
local function bad_events(answer)
	local problem = json.decode(answer);
	local bad, count = {}, 0;
	for _, problem_event in ipairs(type(problem) == "table" and problem.errors or {}) do
		bad[problem_event.index], count = true, count + 1;
	end
	return bad, count > 0 and count or #batch.events;
end

local function send_batch()
	post(urls.events, "application/json", batch.id, "[" .. batch.events:concat(",") .. "]", function (body, code, response)
		if code >= 200 and code < 300 then return batch_is_done(); end
		-- What the events are at fault for stays so; everything else passes, a wrong secret once somebody mends it.
		if code == 400 or code == 413 or code == 415 then
			local bad, count = bad_events(body);
			module:log("error", "%d events are lost: Pushlark answers %d: %s", count, code, body);
			if count == #batch.events then return batch_is_done(); end
			local good = array();
			for index, event in ipairs(batch.events) do
				if not bad[index - 1] then good:push(event); end
			end
			batch = { id = uuid.generate(), events = good };
			return send_batch();
		end
		wait = math.min(wait and wait * 2 or first_wait, last_wait);
		local asked = tonumber(response and response.headers and response.headers["retry-after"]);
		local seconds = math.min(asked or wait, last_wait) * (0.75 + math.random() / 2);
		module:log("warn", "Pushlark does not take events (%s): %d wait; another try in %.0f seconds",
			code > 0 and code or body or "no answer", #batch.events + waiting:count(), seconds);
		timer.add_task(seconds, send_batch);
	end);
end

function next_batch()
	if batch or waiting:count() == 0 then return; end
	local events, bytes = array(), 0;
	repeat
		local event = take_oldest();
		events:push(event);
		bytes = bytes + #event;
	until #events == batch_events or waiting:count() == 0 or bytes + #waiting:peek() > batch_bytes;
	batch = { id = uuid.generate(), events = events };
	send_batch();
end

local function report_dropped()
	if dropped == 0 then return; end
	module:log("error", "%d events are lost: the queue is full (pushlark_queue_size is %d, pushlark_queue_bytes is %d)",
		dropped, queue_size, queue_bytes);
	dropped = 0;
end

local function report_lost()
	report_dropped();
	local lost = waiting:count() + (batch and #batch.events or 0);
	if lost > 0 then module:log("error", "%d events are lost: they waited for Pushlark", lost); end
end
module.unload = report_lost;
module:hook_global("server-stopping", report_lost);

-- Adds an event, and drops the oldest ones for which there is no room any more. One event always fits.
local function enqueue(event)
	while waiting:count() > 0 and (waiting:count() == queue_size or waiting_bytes + #event > queue_bytes) do
		take_oldest();
		if dropped == 0 then timer.add_task(report_wait, report_dropped); end
		dropped = dropped + 1;
	end
	waiting:push(event);
	waiting_bytes = waiting_bytes + #event;
end

local function tell(event)
	local now = time.now();
	event.at = datetime.datetime(math.floor(now)):gsub("Z$", ("%.6fZ"):format(now % 1):sub(2));
	enqueue(json.encode(event));
	next_batch();
end

-- Requests to enable and to disable are Pushlark's to answer.
local function forward(name)
	return function (event)
		local origin, stanza = event.origin, event.stanza;
		if origin.type ~= "c2s" then return; end
		local request = st.clone(stanza);
		request.attr.from = origin.full_jid;
		post(urls[name], "application/xmpp+xml", uuid.generate(), tostring(request), function (body, code)
			local reply = code == 200 and xml.parse(body);
			if not reply or reply.name ~= "iq" or reply.attr.id ~= stanza.attr.id then
				module:log("warn", "%s: Pushlark answers %s", name, code > 0 and code or body or "nothing");
				return origin.send(st.error_reply(stanza, "wait", "internal-server-error",
					"The push service does not answer, try again"));
			end
			reply.attr.xmlns, reply.attr.to = nil, origin.full_jid;
			origin.send(reply);
		end);
		return true;
	end
end
for _, name in ipairs { "enable", "disable" } do
	module:hook("iq-set/self/" .. xmlns_push .. ":" .. name, forward(name));
	module:hook("iq-set/host/" .. xmlns_push .. ":" .. name, forward(name));
end
module:add_feature(xmlns_push);
module:hook("account-disco-info", function (event)
	(event.reply or event.stanza):tag("feature", { var = xmlns_push }):up();
end);

-- Presence. A session in hibernation is still online; what it misses is told message by message.
local function is_online(session)
	return session.presence and (session.priority or 0) >= 0;
end

local function tell_presence(session, online)
	tell { type = "presence", jid = session.full_jid, status = online and "online" or "offline" };
end

module:hook("pre-presence/bare", function (event)
	local session, stanza = event.origin, event.stanza;
	if not session.full_jid or stanza.attr.to then return; end
	if stanza.attr.type == "unavailable" then
		tell_presence(session, false);
	elseif not stanza.attr.type then
		tell_presence(session, (tonumber(stanza:get_child_text("priority")) or 0) >= 0);
	end
end, 10);
module:hook("resource-unbind", function (event)
	if event.session.full_jid then tell_presence(event.session, false); end
end);

-- Messages. Each is marked with an id of the host's (XEP-0359), by which it is known again when a session loses it.
local function stanza_id(stanza, by)
	for sid in stanza:childtags("stanza-id", xmlns_sid) do
		if sid.attr.by == by then return sid.attr.id; end
	end
end

local function id_of(stanza)
	return stanza_id(stanza, module.host);
end

-- A room names the message that it sends to each session of a user.
local function new_id(stanza)
	local room = jid.bare(stanza.attr.from);
	local id = stanza.attr.type == "groupchat" and stanza_id(stanza, room);
	local known = id and room .. "/" .. id;
	return known and #known <= 256 and known or uuid.generate();
end

local function is_told(stanza)
	local kind = stanza.attr.type or "normal";
	return kind == "chat" or kind == "groupchat" or kind == "normal";
end

local function tell_message(kind, to, stanza, recipient)
	local text = tostring(stanza);
	if #text > max_stanza_bytes then
		return module:log("warn", "a message of %d bytes to %s is not told to Pushlark", #text, to);
	end
	tell { type = kind, id = id_of(stanza), from = stanza.attr.from, to = to, stanza = text, recipient = recipient };
end

-- What is known of a user, whose lost session does not count.
local function recipient(username, lost)
	local user, online = prosody.hosts[module.host].sessions[username], false;
	for _, session in pairs(user and user.sessions or {}) do
		online = online or session ~= lost and is_online(session);
	end
	return { exists = true, online = online and true or false };
end

local function on_message(event)
	local stanza = event.stanza;
	local username, host = jid.split(stanza.attr.to);
	if not is_told(stanza) or not username or not stanza.attr.from then return; end
	if not require "core.usermanager".user_exists(username, host) then return; end
	local marked = st.clone(stanza);
	marked:maptags(function (tag)
		if tag.name == "stanza-id" and tag.attr.xmlns == xmlns_sid and tag.attr.by == module.host then return nil; end
		return tag;
	end);
	marked:tag("stanza-id", { xmlns = xmlns_sid, by = module.host, id = new_id(stanza) }):up();
	event.stanza = marked;
	tell_message("message", jid.bare(marked.attr.to), marked, recipient(username));
end
-- After mod_blocklist, before all that keeps or delivers a message.
module:hook("message/bare", on_message, 50);
module:hook("message/full", on_message, 50);

-- What a session did not acknowledge: when it is lost, and what comes while it is.
local function tell_unacknowledged(session, stanza)
	if stanza.name == "message" and not stanza.attr.xmlns and is_told(stanza) and id_of(stanza) then
		tell_message("unacknowledged", session.full_jid, stanza);
	end
end

module:hook("smacks-hibernation-start", function (event)
	for _, stanza in ipairs(event.queue) do tell_unacknowledged(event.origin, stanza); end
end);
module:hook("smacks-hibernation-stanza-queued", function (event)
	tell_unacknowledged(event.origin, event.stanza);
end);
-- It will not come back: the message is the user's again, who may be offline by now.
module:hook("delivery/failure", function (event)
	local session, stanza = event.session, event.stanza;
	if session.username and stanza.name == "message" and is_told(stanza) and id_of(stanza) then
		tell_message("unacknowledged", session.full_jid, stanza);
		tell_message("message", jid.bare(session.full_jid), stanza, recipient(session.username, session));
	end
end, 100);

module:hook_global("user-deleted", function (event)
	if event.host == module.host then
		tell { type = "user_removed", jid = jid.join(event.username, event.host) };
	end
end);
