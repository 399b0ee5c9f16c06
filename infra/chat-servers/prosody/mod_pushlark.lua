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
local modulemanager = require "core.modulemanager";
local st = require "util.stanza";
local time = require "util.time";
local timer = require "util.timer";
local utf8 = require "util.encodings".utf8;
local uuid = require "util.uuid";
local xml = require "util.xml";

local xmlns_push = "urn:xmpp:push:0";
local xmlns_sid = "urn:xmpp:sid:0";

local batch_events, batch_bytes, max_stanza_bytes = 100, 512 * 1024, 200 * 1024;
local first_wait, last_wait, report_wait = 1, 60, 10;
local min_secret_bytes, max_detail_bytes = 16, 300;

-- The settings, without which push is off.
local settings;

-- What the configuration says; or nil, and all that is wrong with it.
local function read_settings()
	local read, problems = { urls = {} }, array();

	local function number(name, default, is_right, expected)
		local value = module:get_option("pushlark_" .. name, default);
		read[name] = tonumber(value);
		if not read[name] or not is_right(read[name]) then
			local written = type(value) == "table" and "a list" or tostring(value);
			problems:push(("pushlark_%s must be %s, it is %s"):format(name, expected, written));
		end
	end
	local function is_count(value) return value >= 1 and value < math.huge and value % 1 == 0; end
	number("queue_size", 10000, is_count, "a whole number from 1");
	number("queue_bytes", 16 * 1024 * 1024, is_count, "a whole number from 1");
	number("timeout", 10, function (value) return value >= 1 and value <= 600; end, "from 1 to 600 seconds");

	local function url(name)
		local value = module:get_option("pushlark_" .. name);
		if value == nil or type(value) == "string" and value:match("^https?://[^%s/?#]+[^%s#]*$") then return value; end
		problems:push(("pushlark_%s must be a URL that begins with https:// or http://"):format(name));
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
			problems:push("pushlark_secret must be base64 behind whsec_");
		elseif #read.key < min_secret_bytes then
			problems:push(("pushlark_secret must have %d bytes or more"):format(min_secret_bytes));
		end
	elseif secret ~= nil then
		problems:push("pushlark_secret must be a string");
	end

	if #problems > 0 then return nil, problems:concat("; "); end
	return read;
end

-- A URL as a log may show it.
local function shown(url)
	return (url:gsub("//[^/@]*@", "//"):gsub("%?.*", ""));
end

-- Text of somebody else's on one line of a log.
local function cleaned(text)
	if not utf8.valid(text) then text = text:gsub("[\128-\255]", "?"); end
	text = text:gsub("\194[\128-\159]", " "):gsub("%c+", " ");
	if #text <= max_detail_bytes then return text; end
	return (text:sub(1, max_detail_bytes):gsub("[\192-\255][\128-\191]*$", "")) .. "…";
end

-- The problem details (RFC 9457) of an answer of Pushlark's.
local function problem_of(body, response)
	if not (response.headers["content-type"] or ""):find("^application/problem%+json") then return nil; end
	local problem = json.decode(body);
	return type(problem) == "table" and problem or nil;
end

local reasons = {
	["certificate-chain-invalid"] = "its certificate is not trusted";
	["certificate-verify-failed"] = "its certificate is for another host name";
	["connection-closed"] = "the connection was closed";
	["closed"] = "the connection was closed";
	["unable to resolve service"] = "the host name cannot be resolved";
};

-- Why an answer is none that was hoped for.
local function described(body, code, response)
	if code == 0 then
		local reason = tostring(body or "closed");
		return ("it does not answer (%s)"):format(cleaned(reasons[reason] or reason));
	end
	local problem = problem_of(body, response);
	local reason;
	if problem then
		reason = cleaned(tostring(problem.detail or problem.title or "no detail"));
	elseif response.headers.location and code >= 300 and code < 400 then
		reason = "a redirect to " .. shown(cleaned(response.headers.location));
	else
		reason = "not as Pushlark does: " .. cleaned(response.headers["content-type"] or "no content type");
	end
	return ("it answers %d (%s)"):format(code, reason);
end

-- The text of the error for a client.
local function explained(code)
	if code == 0 then return "The push service does not answer, try again later"; end
	if code == 401 or code == 403 then
		return "The push service refuses this server, whose administrator must check the secret";
	end
	if code == 429 or code >= 500 then return "The push service cannot take the request now, try again later"; end
	return "The push service is not where this server asks for it, its administrator must check the URL";
end

-- A request that has no connection yet is sent when it has one, with nothing in it then.
local function cancel(request)
	request.headers, request.body = {}, nil;
	http.destroy_request(request);
end

-- Posts a body; id names it in every try (Standard Webhooks). Returns the request, or nil if it is answered already.
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
	-- Prosody 0.12 has no limit of time for a request.
	timeout = callback and timer.add_task(seconds, function ()
		answered(("no answer within %g seconds"):format(seconds), 0);
		cancel(request);
	end);
	return callback and request;
end

-- Events that wait, oldest first, from first to last, and how many bytes they have; how many were dropped since the last
-- report.
local waiting, first, last, waiting_bytes, dropped = {}, 1, 0, 0, 0;
-- The one batch that is on its way: by a request, or until a timer tries again.
local batch, request, retry, wait;
-- Whether the last events were taken, once any were.
local is_taken;
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

-- The events of the batch that Pushlark does not call bad, by their index from 0; none, where it does not say.
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
		-- Another instance has what is no longer this one's.
		if batch ~= sent then return; end
		request = nil;
		if code == 202 then
			if not is_taken then module:log("info", "%s takes events", shown(url)); end
			is_taken = true;
			return batch_is_done();
		end
		-- What the events are at fault for stays so; everything else passes, a wrong secret once somebody mends it.
		local problem = (code == 400 or code == 413 or code == 415) and problem_of(body, response);
		if problem then
			local good = good_events(problem);
			module:log("error", "%d events are lost, %s does not take them: %s",
				#batch.events - #good, shown(url), described(body, code, response));
			if #good == 0 then return batch_is_done(); end
			batch = { id = uuid.generate(), events = good };
			return send_batch();
		end
		is_taken = false;
		wait = math.min(wait and wait * 2 or first_wait, last_wait);
		local asked = tonumber(response and response.headers and response.headers["retry-after"]);
		local seconds = math.max(first_wait, math.min(asked or wait, last_wait)) * (0.75 + math.random() / 2);
		module:log("warn", "%s takes no events: %s; %d wait, next try in %.0f seconds",
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
	module:log("error", "%d events are lost: the queue is full (pushlark_queue_size is %d, pushlark_queue_bytes is %d)",
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
	if lost > 0 then module:log("error", "%d events are lost: they waited for Pushlark", lost); end
end
module:hook_global("server-stopping", report_lost);

function module.unload()
	if not module.reloading then report_lost(); end
	stop_sending();
	batch = nil;
end

-- A reload of the module loses nothing.
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

-- Adds an event, and drops the oldest ones for which there is no room any more. One event always fits.
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

local function tell(event)
	local now = time.now();
	event.at = datetime.datetime(math.floor(now)):gsub("Z$", ("%.6fZ"):format(now % 1):sub(2));
	enqueue(json.encode(event));
	next_batch();
end

-- Prosody's own push module answers the same requests, and notifies on its own.
local function report_other()
	if modulemanager.is_loaded(module.host, "cloud_notify") then
		module:log("error", "this host has mod_cloud_notify, too, so users may be notified twice: unload one push module");
		return true;
	end
end

local is_other_reported;

-- Requests to enable and to disable are Pushlark's to answer.
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
				module:log("warn", "%s answers no request to %s push: %s; the client may try again",
					shown(url), name, described(body, code, response));
				return origin.send(st.error_reply(stanza, "wait", "resource-constraint", explained(code)));
			end
			reply.attr.xmlns, reply.attr.to = nil, origin.full_jid;
			origin.send(reply);
		end);
		return true;
	end
end

-- Presence. A session in hibernation is still online; what it misses is told message by message.
local function is_online(session)
	return session.presence and (session.priority or 0) >= 0;
end

local function tell_presence(session, online)
	tell { type = "presence", jid = session.full_jid, status = online and "online" or "offline" };
end

local function on_presence(event)
	local session, stanza = event.origin, event.stanza;
	if not session.full_jid or stanza.attr.to then return; end
	if stanza.attr.type == "unavailable" then
		tell_presence(session, false);
	elseif not stanza.attr.type then
		tell_presence(session, (tonumber(stanza:get_child_text("priority")) or 0) >= 0);
	end
end

local function on_unbind(event)
	if event.session.full_jid then tell_presence(event.session, false); end
end

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
-- What a session did not acknowledge: when it is lost, and what comes while it is.
local function tell_unacknowledged(session, stanza)
	if stanza.name == "message" and not stanza.attr.xmlns and is_told(stanza) and id_of(stanza) then
		tell_message("unacknowledged", session.full_jid, stanza);
	end
end

local function on_hibernation(event)
	for _, stanza in ipairs(event.queue) do tell_unacknowledged(event.origin, stanza); end
end

local function on_hibernating(event)
	tell_unacknowledged(event.origin, event.stanza);
end

-- It will not come back: the message is the user's again, who may be offline by now.
local function on_failure(event)
	local session, stanza = event.session, event.stanza;
	if session.username and stanza.name == "message" and is_told(stanza) and id_of(stanza) then
		tell_message("unacknowledged", session.full_jid, stanza);
		tell_message("message", jid.bare(session.full_jid), stanza, recipient(session.username, session));
	end
end

local function on_removal(event)
	if event.host == module.host then
		tell { type = "user_removed", jid = jid.join(event.username, event.host) };
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
	-- After mod_blocklist, before all that keeps or delivers a message.
	module:hook("message/bare", on_message, 50);
	module:hook("message/full", on_message, 50);
	module:hook("smacks-hibernation-start", on_hibernation);
	module:hook("smacks-hibernation-stanza-queued", on_hibernating);
	module:hook("delivery/failure", on_failure, 100);
	module:hook_global("user-deleted", on_removal);
	module:hook("module-loaded", function (event)
		if event.module == "cloud_notify" then report_other(); end
	end);
	report_other();
end

-- Without right settings push is off, and chat goes on.
local function configure()
	local read, problems = read_settings();
	if not read then
		return module:log("error", "%s: %s", settings and "The former settings stay" or "Push is off", problems);
	end
	if not read.key then
		module:log("warn", "pushlark_secret is not set: only a Pushlark without WEBHOOK_SECRET takes what is not signed");
	end
	local was_off = not settings;
	settings = read;
	if was_off then start(); end
	-- The next try need not wait, since it may be the first one with the right settings.
	wait = nil;
	if retry then
		retry:stop();
		send_batch();
	end
	next_batch();
end
module:hook_global("config-reloaded", configure);
configure();
