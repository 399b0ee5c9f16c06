-- The data of this server about the sender of a message, for mod_pushlark: names for people, and whether the recipient
-- knows the sender.

local jid = require "util.jid";
local modulemanager = require "core.modulemanager";
local rostermanager = require "core.rostermanager";
local st = require "util.stanza";
local storagemanager = require "core.storagemanager";

local xmlns_muc_user = "http://jabber.org/protocol/muc#user";
local xmlns_vcard4 = "urn:ietf:params:xml:ns:vcard-4.0";

-- Pushlark uses 256 characters of a name.
local max_name_bytes = 1024;

-- Returns a name of limited length, or nil if there is none.
local function limited(name)
	if not name or not name:find("%S") then return nil; end
	if #name <= max_name_bytes then return name; end
	return (name:sub(1, max_name_bytes):gsub("[\192-\255][\128-\191]*$", ""));
end

-- Returns a room of this server, or nil.
local function local_room(room)
	local muc = modulemanager.get_module(jid.host(room), "muc");
	return muc and muc.get_room_from_jid(room);
end

-- Returns the inviter to a room (XEP-0045, section 7.8.2), or nil.
local function inviter(stanza)
	local x = stanza:get_child("x", xmlns_muc_user);
	local invite = x and x:get_child("invite");
	return invite and invite.attr.from and jid.prep(invite.attr.from);
end

-- Returns the roster item of a contact. A contact who only asks to be one has none.
local function contact_of(username, sender)
	local item = rostermanager.load_roster(username, module.host)[sender];
	local is_asking = item and item.subscription == "none" and not item.ask
		and rostermanager.is_contact_pending_in(username, module.host, sender);
	return not is_asking and item or nil;
end

local function is_occupant(room, user)
	for _, occupant in room:each_occupant() do
		if occupant.bare_jid == user then return true; end
	end
	return false;
end

-- Returns whether one of the sessions is in the room, or in a room of this server together with the user.
local function is_met(sender, sessions)
	for _, session in pairs(sessions) do
		for room in pairs(session.pushlark_nicks or {}) do
			local met = room == sender or local_room(room);
			if met == true or met and is_occupant(met, sender) then return true; end
		end
	end
	return false;
end

-- Returns the name in the profile of a user of this server, if the recipient may see it (XEP-0292, XEP-0054).
local function profile_name(sender, recipient)
	local username, host = jid.split(sender);
	if not username or not prosody.hosts[host] then return nil; end
	local pep = modulemanager.get_module(host, "pep");
	if pep then
		local is_allowed, _, item = pep.get_pep_service(username):get_last_item("urn:xmpp:vcard4", recipient);
		local vcard = is_allowed and item and item:get_child("vcard", xmlns_vcard4);
		local name = vcard and (limited(vcard:find("fn/text#")) or limited(vcard:find("nickname/text#")));
		if name then return name; end
	end
	local vcard = modulemanager.is_loaded(host, "vcard") and st.deserialize(storagemanager.open(host, "vcard"):get(username));
	return vcard and (limited(vcard:get_child_text("FN")) or limited(vcard:get_child_text("NICKNAME"))) or nil;
end

local function look_up(stanza, username, sessions, has_names)
	local recipient, from, invited_by = jid.join(username, module.host), jid.bare(stanza.attr.from), inviter(stanza);
	local room, sender = local_room(from), invited_by and jid.bare(invited_by) or from;
	-- A room names an inviter by the nick. The user behind it counts, but is not named: the room may be anonymous.
	local occupant = room and invited_by and room:get_occupant_by_nick(invited_by);
	local contact, is_own = contact_of(username, occupant and occupant.bare_jid or sender), sender == recipient;
	-- A room sends messages other than invitations only to its occupants and members.
	local is_from_room = room ~= nil and not invited_by;
	local found = { sender_known = is_own or contact ~= nil or is_from_room or is_met(sender, sessions) };
	if has_names then
		found.room_name = room and limited(room:get_name());
		local is_user = not (is_own or is_from_room or occupant or stanza.attr.type == "groupchat");
		found.sender_name = is_user and (contact and limited(contact.name) or profile_name(sender, recipient)) or nil;
	end
	return found;
end

-- Returns sender_known, sender_name and room_name of a message to a user with these sessions; without those that the server
-- cannot look up. A failure never holds up the message.
return function (...)
	local is_successful, found = pcall(look_up, ...);
	if is_successful then return found; end
	module:log("debug", "The sender of a message is not looked up: %s", found);
	return {};
end
