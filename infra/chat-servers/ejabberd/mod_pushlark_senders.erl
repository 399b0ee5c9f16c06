%% The data of this server about the sender of a message, for mod_pushlark_events: names for people, and whether the
%% recipient knows the sender.
-module(mod_pushlark_senders).

-export([hooks/0, about/4]).
-export([room_message/3]).

-define(NS_MUC_USER, <<"http://jabber.org/protocol/muc#user">>).
-define(NS_PUBSUB_EVENT, <<"http://jabber.org/protocol/pubsub#event">>).
%% Pushlark uses 256 characters of a name.
-define(MAX_NAME_CHARS, 256).

%% Returns the hooks of this module, each with its function and order.
hooks() -> [{muc_filter_message, room_message, 90}].

%% Only the process of a room knows the room's title, and it must not be asked while it delivers a message. So each of its
%% messages has the title in the metadata. A message that it wraps for a subscriber (MUC/Sub) loses the metadata.
room_message(Packet, State, _Nick) when element(1, Packet) =:= message ->
    try
        [Config] = [Field || Field <- tuple_to_list(State), is_tuple(Field), element(1, Field) =:= config],
        Name = limited(element(2, Config)),
        put(pushlark_room_name, Name),
        xmpp:put_meta(Packet, pushlark_room_name, Name)
    catch _:_ -> Packet
    end;
room_message(Packet, _State, _Nick) -> Packet.

%% Returns sender_known, sender_name and room_name of a message to a user who is in Rooms; without those that the server
%% cannot look up. A failure never holds up the message.
about(Packet, User, Host, Rooms) ->
    Sender = sender(Packet),
    Known = looked_up(sender_known, fun() -> is_known(Sender, User, Host, Rooms) end),
    case mod_pushlark:setting(Host, names) of
        true ->
            RoomName = looked_up(room_name, fun() -> room_name(Packet) end),
            SenderName = looked_up(sender_name, fun() -> sender_name(Packet, Sender, User, Host) end),
            maps:merge(Known, maps:merge(RoomName, SenderName));
        false -> Known
    end.

looked_up(Field, LookUp) ->
    try LookUp() of
        none -> #{};
        Found -> #{Field => Found}
    catch Class:Reason ->
        logger:debug("The ~ts of a message is not looked up: ~p ~p", [Field, Class, Reason]),
        #{}
    end.

%% Returns the inviter to a room (XEP-0045, section 7.8.2), or else the user or room that sends the message.
sender(Packet) ->
    Inviters = [fxml:get_tag_attr_s(<<"from">>, Invite)
                || {xmlel, <<"x">>, _, _} = X <- [xmpp:encode(El) || El <- xmpp:get_els(Packet)],
                   fxml:get_tag_attr_s(<<"xmlns">>, X) =:= ?NS_MUC_USER,
                   {xmlel, <<"invite">>, _, _} = Invite <- element(4, X)],
    From = xmpp:get_from(Packet),
    case Inviters of
        [<<_, _/binary>> = Inviter | _] -> try {inviter, bare(jid:decode(Inviter))} catch _:_ -> {sender, bare(From)} end;
        _ -> {sender, bare(From)}
    end.

bare(Jid) -> jid:remove_resource(jid:tolower(Jid)).

%% A room sends messages other than invitations only to its occupants and subscribers.
is_known({Role, {SenderUser, SenderHost, _} = Sender}, User, Host, Rooms) ->
    {SenderUser, SenderHost} =:= {User, Host}
        orelse Role =:= sender andalso is_room_host(SenderHost)
        orelse lists:member({SenderUser, SenderHost}, Rooms)
        orelse is_contact(Sender, User, Host)
        orelse is_met(Sender, Host, Rooms).

is_room_host(Name) ->
    ejabberd_router:is_my_route(Name) andalso begin
        Host = ejabberd_router:host_of_route(Name),
        gen_mod:is_loaded(Host, mod_muc) andalso lists:member(Name, gen_mod:get_module_opt_hosts(Host, mod_muc))
    end.

%% The hook includes contacts of a shared roster. A contact who only asks to be one does not count.
is_contact({SenderUser, SenderHost, _} = Sender, User, Host) ->
    Contact = jid:make(SenderUser, SenderHost),
    case ejabberd_hooks:run_fold(roster_get_jid_info, Host, {none, none, []}, [User, Host, Contact]) of
        {none, in, _} -> false;
        {none, none, []} -> roster_item(Sender, User, Host) =/= none;
        _ -> true
    end.

roster_item(Sender, User, Host) ->
    case lists:keyfind(Sender, 4, mod_roster:get_roster(User, Host)) of
        %% The fields subscription and ask.
        Item when element(6, Item) =:= none, element(7, Item) =:= in -> none;
        Item when element(1, Item) =:= roster -> Item;
        false -> none
    end.

%% Returns whether the sender is in one of the rooms, if it is a room of this host.
is_met(_Sender, _Host, []) -> false;
is_met({SenderUser, SenderHost, _}, Host, Rooms) ->
    gen_mod:is_loaded(Host, mod_muc)
        andalso lists:any(fun(Room) -> lists:member(Room, Rooms) end,
                          mod_muc:get_online_rooms_by_user(Host, SenderUser, SenderHost)).

%% The process of a room itself sends the events of its wrapped messages.
room_name(Packet) ->
    case lists:any(fun(El) -> xmpp:get_ns(El) =:= ?NS_PUBSUB_EVENT end, xmpp:get_els(Packet)) of
        true -> case get(pushlark_room_name) of undefined -> none; Name -> Name end;
        false -> xmpp:get_meta(Packet, pushlark_room_name, none)
    end.

%% Returns the name in the user's roster, or else in the profile of a user of this server (XEP-0054).
sender_name(Packet, {Role, {SenderUser, SenderHost, _} = Sender}, User, Host) ->
    IsRoom = xmpp:get_type(Packet) =:= groupchat orelse Role =:= sender andalso is_room_host(SenderHost),
    case IsRoom orelse {SenderUser, SenderHost} =:= {User, Host} of
        true -> none;
        false ->
            Item = roster_item(Sender, User, Host),
            case Item =/= none andalso limited(element(5, Item)) of
                Name when is_binary(Name) -> Name;
                _ -> profile_name(SenderUser, SenderHost)
            end
    end.

%% A directory (LDAP) can be slow, so it is not asked.
profile_name(User, Host) ->
    HasProfiles = User =/= <<>> andalso lists:member(Host, ejabberd_option:hosts()) andalso gen_mod:is_loaded(Host, mod_vcard)
        andalso gen_mod:db_mod(Host, mod_vcard) =/= mod_vcard_ldap,
    case HasProfiles andalso mod_vcard:get_vcard(User, Host) of
        [VCard | _] ->
            first([limited(fxml:get_subtag_cdata(VCard, Field)) || Field <- [<<"FN">>, <<"NICKNAME">>]]);
        _ -> none
    end.

first([]) -> none;
first([none | Names]) -> first(Names);
first([Name | _]) -> Name.

%% Returns a name of limited length, or none if it is empty.
limited(Name) when is_binary(Name) ->
    case string:slice(string:trim(Name), 0, ?MAX_NAME_CHARS) of <<>> -> none; Limited -> Limited end.
