-- Sends a host's events (pushlark_events.lib.lua) to Pushlark, and forwards the users' requests to enable and disable push
-- notifications (XEP-0357). Chat never waits for Pushlark: events wait in a bounded queue in memory.

local array = require "util.array";
local base64 = require "util.encodings".base64;
local datetime = require "util.datetime";
local hashes = require "util.hashes";
local http = require "net.http";
local json = require "util.json";
local modulemanager = require "core.modulemanager";
local st = require "util.stanza";
local time = require "util.time";
local timer = require "util.timer";
local utf8 = require "util.encodings".utf8;
local uuid = require "util.uuid";
local xml = require "util.xml";

local xmlns_push = "urn:xmpp:push:0";
-- Push, and its extensions of Tigase, which clients use only if they are announced. Pushlark implements them.
local features = {
	xmlns_push, "tigase:push:away:0", "tigase:push:encrypt:0", "tigase:push:encrypt:aes-128-gcm",
	"tigase:push:filter:groupchat:0", "tigase:push:filter:ignore-unknown:0", "tigase:push:filter:muted:0",
	"tigase:push:jingle:0", "tigase:push:priority:0",
};

local batch_events, batch_bytes = 100, 512 * 1024;
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
	number("presence_refresh", 86400, is_count, "a whole number of at least 1");
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

	local function switch(name, default)
		read[name] = module:get_option("pushlark_" .. name, default);
		if type(read[name]) ~= "boolean" then problems:push(("pushlark_%s must be true or false"):format(name)); end
	end
	switch("csi_events", false);
	switch("names", true);

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
-- The last time at which events were lost: earlier events may not have arrived.
local lost_at = time.now();
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
			lost_at = time.now();
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
	return { batch = batch, waiting = events, lost_at = lost_at };
end

function module.restore(saved)
	batch, lost_at = saved.batch, saved.lost_at or lost_at;
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
		dropped, lost_at = dropped + 1, time.now();
	end
	last = last + 1;
	waiting[last] = event;
	waiting_bytes = waiting_bytes + #event;
end

-- The timer of the next batch.
local gathering;

local function send_event(event)
	local now = time.now();
	event.at = datetime.datetime(math.floor(now)):gsub("Z$", ("%.6fZ"):format(now % 1):sub(2));
	enqueue(json.encode(event));
	-- What happens at the same time is one batch.
	gathering = gathering or module:add_timer(0, function ()
		gathering = nil;
		next_batch();
	end);
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
		-- The end of the session must be sent: it ends the tie to this device.
		local told = origin.pushlark_told;
		if told and told.status == "offline" then origin.pushlark_told = nil; end
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

local function start()
	for _, name in ipairs { "enable", "disable" } do
		-- Before mod_cloud_notify.
		module:hook("iq-set/self/" .. xmlns_push .. ":" .. name, forward(name), 1);
		module:hook("iq-set/host/" .. xmlns_push .. ":" .. name, forward(name), 1);
	end
	for _, feature in ipairs(features) do module:add_feature(feature); end
	module:hook("account-disco-info", function (event)
		for _, feature in ipairs(features) do (event.reply or event.stanza):tag("feature", { var = feature }):up(); end
	end);
	module:require "pushlark_events" (
		send_event, function (name) return settings[name]; end,
		function () return not batch and count_waiting() == 0; end, function () return lost_at; end
	);
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
