-- The events of a host, for mod_pushlark: messages and contact requests to its users, their presence, messages that a lost
-- session did not acknowledge (XEP-0198), read marks, answers to calls, and removed users.

local jid = require "util.jid";
local rostermanager = require "core.rostermanager";
local st = require "util.stanza";
local time = require "util.time";
local usermanager = require "core.usermanager";
local uuid = require "util.uuid";

local about_sender = module:require "pushlark_senders";

local xmlns_sid = "urn:xmpp:sid:0";
local xmlns_call = "urn:xmpp:jingle-message:0";
local xmlns_markers = "urn:xmpp:chat-markers:0";
local xmlns_mds = "urn:xmpp:mds:displayed:0";
local xmlns_muc_user = "http://jabber.org/protocol/muc#user";
local xmlns_pubsub = "http://jabber.org/protocol/pubsub";

local max_stanza_bytes = 200 * 1024;

-- The most sessions whose presence is sent again at once, the wait for the others, and the longest wait for the next, in
-- seconds.
local refresh_sessions, refresh_next, refresh_last = 100, 1, 3600;

-- Functions: the one that sends an event, the one that returns a setting, the one that returns whether no events wait, and
-- the one that returns the last time at which events were lost.
local send_event, setting, is_idle, lost_at;

-- Presence. A hibernating session is still online; on_hibernating sends the messages that it misses.
local function is_online(session)
	return session.presence and (session.priority or 0) >= 0;
end

-- The values of show (RFC 6121, section 4.7.2.1).
local shows = { away = true; chat = true; dnd = true; xa = true };

-- Returns the availability of a session with this presence; without one, it is offline. The client of a lost session
-- cannot be reached until the session is resumed.
local function availability(session, presence)
	if not presence then return { status = "offline" }; end
	local state = (session.hibernating or session.pushlark_inactive) and "inactive" or "active";
	local show = presence:get_child_text("show");
	return { status = "online", client_state = state, show = shows[show] and show or nil };
end

-- Sends the last presence of a session, or that it is offline.
local function send_presence(session, presence)
	local told = availability(session, presence);
	send_event {
		type = "presence", jid = session.full_jid, status = told.status, client_state = told.client_state, show = told.show,
	};
	told.at = time.now();
	session.pushlark_told = told;
end

-- Returns whether the presence of a session was sent at this time or later, in an event that was not lost.
local function is_told_since(session, since)
	return session.pushlark_told and session.pushlark_told.at >= math.max(since, lost_at());
end

-- Sends a presence, unless the last one that was sent is the same.
local function send_change(session, presence)
	local told, new = session.pushlark_told, availability(session, presence);
	local is_equal = is_told_since(session, 0)
		and told.status == new.status and told.client_state == new.client_state and told.show == new.show;
	if not is_equal then send_presence(session, presence); end
end

local function sessions_of(username)
	local user = prosody.hosts[module.host].sessions[username];
	return user and user.sessions or {};
end

-- Before a call: a device whose session is online and active rings without a notification.
local function send_all_presence(username)
	for _, session in pairs(sessions_of(username)) do
		if is_online(session) then send_presence(session, session.presence); end
	end
end

-- Sends the presence of sessions of which none was sent, without loss, for a while, unless events wait: Pushlark forgets a
-- session after SESSION_LIFETIME. Returns the wait for the next time.
local function refresh()
	local period, sent = setting("presence_refresh"), 0;
	if not is_idle() then return refresh_next; end
	local since = time.now() - period;
	for username in pairs(prosody.hosts[module.host].sessions) do
		for _, session in pairs(sessions_of(username)) do
			if is_online(session) and not is_told_since(session, since) then
				if sent == refresh_sessions then return refresh_next; end
				send_presence(session, session.presence);
				sent = sent + 1;
			end
		end
	end
	return math.min(period / 4, refresh_last);
end

-- The state of a client (XEP-0352), which does not depend on its presence.
local function on_client_state(is_inactive)
	return function (event)
		local session = event.origin;
		session.pushlark_inactive = is_inactive;
		if setting("csi_events") and session.full_jid and is_online(session) then
			send_change(session, session.presence);
		end
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
		send_change(session, nil);
	elseif not stanza.attr.type then
		local is_available = (tonumber(stanza:get_child_text("priority")) or 0) >= 0;
		-- A change of the text alone has no effect at Pushlark.
		send_change(session, is_available and stanza or nil);
	end
end

-- Prosody also makes the end of a session an unavailable presence, before or after this.
local function on_unbind(event)
	if event.session.full_jid then send_change(event.session, nil); end
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

local function has_answer(stanza)
	for step in stanza:childtags(nil, xmlns_call) do
		if answers[step.name] then return true; end
	end
	return false;
end

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
	local username = jid.node(to);
	local sender = about_sender(stanza, username, sessions_of(username), setting("names"));
	recipient.sender_known = sender.sender_known;
	send_event {
		type = kind, id = id_of(stanza), from = stanza.attr.from, to = to, stanza = text, recipient = recipient,
		sender_name = sender.sender_name, room_name = sender.room_name,
	};
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

-- Returns the nick of a session in the room that sends it a message. If another session of the user is the sender, it is
-- that session's nick, since it is the user's own message.
local function nick_of(session, stanza)
	if not session or stanza.attr.type ~= "groupchat" then return nil; end
	local room, sender = jid.bare(stanza.attr.from), jid.resource(stanza.attr.from);
	for _, other in pairs(sessions_of(session.username)) do
		if other.pushlark_nicks and other.pushlark_nicks[room] == sender then return sender; end
	end
	return session.pushlark_nicks and session.pushlark_nicks[room];
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
	if not usermanager.user_exists(username, host) then return; end
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

-- Returns whether a user who sends a message has read the conversation. Pushlark infers this from the messages to users of
-- this host. A private message to an occupant of a room does not show that the user has read the room.
local function is_reply(session, stanza, to)
	local kind, _, host = stanza.attr.type or "normal", jid.split(to);
	return (kind == "chat" or kind == "normal") and host ~= module.host and not (session.pushlark_nicks or {})[to]
		and (stanza:get_child_text("body") or "") ~= "";
end

-- What a session sends. A displayed marker (XEP-0333) and a text are read marks. An answer to a call is an event for the
-- user, so that the user's other devices stop ringing.
local function on_sent(event)
	local session, stanza = event.origin, event.stanza;
	if session.type ~= "c2s" or not session.full_jid or not stanza.attr.to or stanza.attr.type == "error" then return; end
	local user, other = jid.bare(session.full_jid), jid.bare(stanza.attr.to);
	-- on_message sends what the user sends to the own bare JID.
	if other == user then return; end
	local displayed = stanza:get_child("displayed", xmlns_markers);
	if displayed and displayed.attr.id then
		send_event { type = "read", jid = user, conversation = other, message = displayed.attr.id };
	elseif is_reply(session, stanza, other) then
		send_event { type = "read", jid = user, conversation = other };
	end
	if has_answer(stanza) then
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
	if not username or not usermanager.user_exists(username, host) then return; end
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
		send_message("unacknowledged", session.full_jid, stanza, { nick = nick_of(session, stanza) });
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

return function (...)
	send_event, setting, is_idle, lost_at = ...;
	local refreshing = module:add_timer(refresh_next, refresh);
	module:hook_global("config-reloaded", function ()
		refreshing:stop();
		refreshing = module:add_timer(refresh_next, refresh);
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
end
