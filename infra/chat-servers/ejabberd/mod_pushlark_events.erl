%% The events of a host, for mod_pushlark: messages and contact requests to its users, their presence, messages that a lost
%% session did not acknowledge (XEP-0198), read marks, answers to calls, and removed users.
-module(mod_pushlark_events).

-export([hooks/0, new_told/1, events_lost/1, device_asked/1, refresh/2]).
-export([message/1, packet_received/1, packet_sent/1, contact_asked/2, item_published/6, client_state_changed/2,
         self_presence/1, session_closed/3, session_copied/2, session_resumed/1, session_pending/1, stanza_sent/3,
         session_terminated/2, user_removed/2]).

-define(NS_SID, <<"urn:xmpp:sid:0">>).
-define(NS_CALL, <<"urn:xmpp:jingle-message:0">>).
-define(NS_MARKERS, <<"urn:xmpp:chat-markers:0">>).
-define(NS_MDS, <<"urn:xmpp:mds:displayed:0">>).
-define(NS_MUC_USER, <<"http://jabber.org/protocol/muc#user">>).

-define(MAX_STANZA_BYTES, 200 * 1024).
%% The most sessions whose presence is sent again at once.
-define(REFRESH_SESSIONS, 100).

%% Returns the hooks of this module, each with its function and order.
hooks() ->
    %% Before the archive and the offline storage, so that they keep the id.
    [{sm_receive_packet, message, 10},
     {user_receive_packet, packet_received, 50},
     {user_send_packet, packet_sent, 50},
     %% After mod_roster, which knows whether the request is new.
     {roster_in_subscription, contact_asked, 90},
     {pubsub_publish_item, item_published, 50},
     {csi_activity, client_state_changed, 60},
     {c2s_self_presence, self_presence, 90},
     {sm_remove_connection_hook, session_closed, 90},
     {c2s_copy_session, session_copied, 50},
     {c2s_session_resumed, session_resumed, 50},
     {c2s_session_pending, session_pending, 50},
     {c2s_handle_send, stanza_sent, 40},
     %% Before mod_stream_mgmt sends unacknowledged messages to the user's other sessions.
     {c2s_terminated, session_terminated, 40},
     {remove_user, user_removed, 90}].

%% Messages. The host adds a stanza-id (XEP-0359) to each, so that a repeat after a lost session has the same id. The
%% packet's metadata also has the id; only this server can set metadata.
message(Packet) when element(1, Packet) =:= message ->
    {User, Host, _} = jid:tolower(xmpp:get_to(Packet)),
    case is_notifiable(Packet) andalso User =/= <<>> andalso ejabberd_auth:user_exists(User, Host)
         andalso is_allowed(Packet, Host) of
        true ->
            {Id, Marked} = marked(Packet, Host),
            At = now_micros(),
            Sessions = sessions(User, Host),
            lists:member(<<"propose">>, steps(Packet)) andalso send_all_presence(User, Host, Sessions, At),
            Recipient = maps:merge(recipient(Sessions), nick(Packet, xmpp:get_to(Packet))),
            send_message(Host, message, jid:make(User, Host), Id, Marked, Recipient),
            Marked;
        _ -> Packet
    end;
message(Packet) -> Packet.

%% A message that is delivered again, by a dead session or from the offline storage, keeps its id.
marked(Packet, Host) ->
    IsRepeated = xmpp:get_meta(Packet, pushlark_id, none) =/= none orelse xmpp:get_meta(Packet, from_offline, false),
    case IsRepeated andalso id_of(Packet, Host) of
        Known when is_binary(Known) -> {Known, Packet};
        _ ->
            Foreign = [El || El <- els(Packet), not is_stanza_id(El, Host)],
            Id = case room_id(Packet, Foreign) of none -> mod_pushlark:new_id(); OfRoom -> OfRoom end,
            StanzaId = {xmlel, <<"stanza-id">>, [{<<"xmlns">>, ?NS_SID}, {<<"by">>, Host}, {<<"id">>, Id}], []},
            {Id, xmpp:put_meta(xmpp:set_els(Packet, [StanzaId | Foreign]), pushlark_id, Id)}
    end.

%% A room sends one message to each session of a user, with the same stanza-id (XEP-0045).
room_id(Packet, Els) ->
    Room = jid:encode(jid:remove_resource(xmpp:get_from(Packet))),
    case [Id || El <- Els, xmpp:get_type(Packet) =:= groupchat, is_stanza_id(El, Room),
                {<<"id">>, Id} <- element(3, El), Id =/= <<>>, byte_size(Id) =< 128] of
        [Id | _] when byte_size(Room) =< 127 -> <<Room/binary, "/", Id/binary>>;
        _ -> none
    end.

%% Returns the children as elements, whether they were decoded or not.
els(Packet) -> [xmpp:encode(El) || El <- xmpp:get_els(Packet)].

is_stanza_id(El, By) ->
    element(2, El) =:= <<"stanza-id">> andalso lists:member({<<"xmlns">>, ?NS_SID}, element(3, El))
        andalso lists:member({<<"by">>, By}, element(3, El)).

id_of(Packet, Host) ->
    Ids = [Id || El <- els(Packet), is_stanza_id(El, Host), {<<"id">>, Id} <- element(3, El)],
    case {xmpp:get_meta(Packet, pushlark_id, none), Ids} of
        {none, [Id | _]} -> Id;
        {Known, _} -> Known
    end.

is_notifiable(Packet) ->
    element(1, Packet) =:= message andalso lists:member(xmpp:get_type(Packet), [chat, groupchat, normal])
        andalso xmpp:get_from(Packet) =/= undefined andalso xmpp:get_to(Packet) =/= undefined
        andalso begin
            {_, _, _, Children} = xmpp:encode(Packet),
            IsOwn = same_user(xmpp:get_from(Packet), xmpp:get_to(Packet)),
            lists:any(fun(Child) -> has_effect(Child, IsOwn) end, Children)
        end.

same_user(One, Other) -> jid:remove_resource(jid:tolower(One)) =:= jid:remove_resource(jid:tolower(Other)).

%% Returns whether a child of a message has an effect at Pushlark.
has_effect({xmlel, Name, _, _} = Child, IsOwn) ->
    case fxml:get_tag_attr_s(<<"xmlns">>, Child) of
        Default when Default =:= <<>>; Default =:= <<"jabber:client">> ->
            Name =:= <<"body">> andalso fxml:get_tag_cdata(Child) =/= <<>>;
        %% The answers of others to a call have no effect.
        ?NS_CALL -> Name =/= <<"ringing">> andalso (IsOwn orelse not is_answer(Name));
        ?NS_MUC_USER -> fxml:get_subtag(Child, <<"invite">>) =/= false;
        <<"http://jabber.org/protocol/pubsub#event">> ->
            fxml:get_path_s(Child, [{elem, <<"items">>}, {attr, <<"node">>}]) =:= <<"urn:xmpp:mucsub:nodes:messages">>;
        Ns -> not lists:member(Ns, without_effect())
    end;
has_effect(_Text, _IsOwn) -> false.

without_effect() ->
    [<<"http://jabber.org/protocol/chatstates">>, <<"urn:xmpp:receipts">>, ?NS_MARKERS, <<"urn:xmpp:hints">>, ?NS_SID,
     <<"urn:xmpp:occupant-id:0">>, <<"urn:xmpp:delay">>, <<"jabber:x:delay">>, <<"urn:xmpp:carbons:2">>,
     <<"urn:xmpp:mam:2">>].

%% The steps of a call (XEP-0353) by which a user's device answers.
is_answer(Step) -> lists:member(Step, [<<"accept">>, <<"proceed">>, <<"reject">>]).

%% Returns the names of a message's children in the namespace of XEP-0353.
steps(Packet) -> [Name || {xmlel, Name, _, _} = El <- els(Packet), fxml:get_tag_attr_s(<<"xmlns">>, El) =:= ?NS_CALL].

%% Checks the user's privacy and block lists, which ejabberd does only later.
is_allowed(Packet, Host) ->
    allow =:= ejabberd_hooks:run_fold(privacy_check_packet, Host, allow, [xmpp:get_to(Packet), Packet, in]).

%% The sessions of a user that receive messages: their resources and data. The data of a session can be changed only by
%% its own process, and is gone when the session is resumed, so that its client is active again. Only the nicks are kept.
sessions(User, Host) ->
    [{Resource, Data} || {Resource, Data} <- ejabberd_sm:get_user_info(User, Host), is_online(Data)].

is_online(Data) ->
    case proplists:get_value(priority, Data) of
        Priority when is_integer(Priority) -> Priority >= 0;
        _ -> false
    end.

set_data(Jid, Name, Value) ->
    {User, Host, Resource} = jid:tolower(Jid),
    ejabberd_sm:set_user_info(User, Host, Resource, Name, Value).

%% Returns the rooms of all sessions of a user.
rooms(User, Host) ->
    [Room || {_, Data} <- ejabberd_sm:get_user_info(User, Host), Room <- maps:keys(nicks(Data))].

%% Returns the field recipient of an event. The user is inactive if the clients of all sessions are.
recipient([]) -> #{exists => true, online => false};
recipient(Sessions) ->
    IsActive = lists:any(fun({_, Data}) -> client_state(Data) =:= active end, Sessions),
    #{exists => true, online => true, client_state => case IsActive of true -> active; false -> inactive end}.

client_state(Data) -> proplists:get_value(pushlark_client_state, Data, active).

client_state_changed(#{jid := Jid} = State, ClientState) ->
    {User, Host, Resource} = jid:tolower(Jid),
    set_data(Jid, pushlark_client_state, ClientState),
    case mod_pushlark:setting(Host, csi_events) andalso lists:keyfind(Resource, 1, sessions(User, Host)) of
        {_, Data} -> send_change(Jid, online(Data, ClientState));
        false -> ok
    end,
    State.

%% Before a call: a device whose session is online and active rings without a notification. The client of a lost session
%% cannot be reached. At is earlier than the reading of the sessions, so that the end of a session in the meantime is newer.
send_all_presence(User, Host, Sessions, At) ->
    [send_presence(jid:make(User, Host, Resource), online_or_lost(Data), At) || {Resource, Data} <- Sessions].

online_or_lost(Data) ->
    online(Data, case proplists:get_bool(pushlark_lost, Data) of true -> inactive; false -> client_state(Data) end).

%% The nicks of a session in rooms, as the rooms confirm them (XEP-0045, status code 110).
packet_received({Packet, #{jid := Jid}} = Acc) when element(1, Packet) =:= presence ->
    Elements = [xmpp:encode(El) || El <- xmpp:get_els(Packet), xmpp:get_ns(El) =:= ?NS_MUC_USER],
    case [self || El <- Elements, {xmlel, <<"status">>, _, _} = Status <- element(4, El),
                  fxml:get_tag_attr_s(<<"code">>, Status) =:= <<"110">>] of
        [] -> Acc;
        _ ->
            {Room, RoomHost, _} = jid:tolower(xmpp:get_from(Packet)),
            {_, _, Nick} = jid:split(xmpp:get_from(Packet)),
            Nicks = nicks(data(Jid)),
            Changed = case xmpp:get_type(Packet) of
                available -> Nicks#{{Room, RoomHost} => Nick};
                _ -> maps:remove({Room, RoomHost}, Nicks)
            end,
            set_data(Jid, pushlark_nicks, Changed),
            Acc
    end;
packet_received(Acc) -> Acc.

%% Returns the nick of a session in the room that sends it a message, as a part of the field recipient. If another session
%% of the user is the sender, it is that session's nick, since it is the user's own message.
nick(Packet, Session) ->
    {User, Host, Resource} = jid:tolower(Session),
    {Room, RoomHost, _} = jid:tolower(xmpp:get_from(Packet)),
    {_, _, Sender} = jid:split(xmpp:get_from(Packet)),
    Nicks = [{Own, Nick} || xmpp:get_type(Packet) =:= groupchat, {Own, Data} <- ejabberd_sm:get_user_info(User, Host),
                            #{{Room, RoomHost} := Nick} <- [nicks(Data)]],
    case {lists:keymember(Sender, 2, Nicks), lists:keyfind(Resource, 1, Nicks)} of
        {true, _} -> #{nick => Sender};
        {false, {_, Nick}} -> #{nick => Nick};
        {false, false} -> #{}
    end.

nicks(Data) -> proplists:get_value(pushlark_nicks, Data, #{}).

%% A resumed session has its presence, and is still in its rooms, which do not confirm the nicks again.
session_copied(#{jid := Jid} = State, _OldState) ->
    Data = data(Jid),
    State#{pushlark_nicks => nicks(Data), pushlark_show => show(Data)}.

session_resumed(#{jid := Jid, pushlark_nicks := Nicks, pushlark_show := Show} = State) ->
    set_data(Jid, pushlark_nicks, Nicks),
    set_data(Jid, pushlark_show, Show),
    maps:without([pushlark_nicks, pushlark_show], State);
session_resumed(State) -> State.

data(Jid) ->
    {User, Host, Resource} = jid:tolower(Jid),
    case ejabberd_sm:get_user_info(User, Host, Resource) of offline -> []; Data -> Data end.

%% What a session sends. A displayed marker (XEP-0333) and a text are read marks. An answer to a call is an event for the
%% user, so that the user's other devices stop ringing. message/1 sends what the user sends to the own bare JID.
packet_sent({Packet, #{jid := Jid}} = Acc) when element(1, Packet) =:= message ->
    {User, Host, _} = jid:tolower(Jid),
    To = xmpp:get_to(Packet),
    case To =:= undefined orelse xmpp:get_type(Packet) =:= error orelse same_user(Jid, To) of
        true -> ok;
        false ->
            Displayed = [Id || {xmlel, <<"displayed">>, _, _} = El <- els(Packet),
                               fxml:get_tag_attr_s(<<"xmlns">>, El) =:= ?NS_MARKERS,
                               Id <- [fxml:get_tag_attr_s(<<"id">>, El)], Id =/= <<>>],
            case Displayed of
                [Id | _] -> send_read(Host, User, To, #{message => Id});
                [] -> is_reply(Packet, Jid) andalso send_read(Host, User, To, #{})
            end,
            lists:any(fun is_answer/1, steps(Packet)) andalso
                send_message(Host, message, jid:make(User, Host), mod_pushlark:new_id(), xmpp:set_from(Packet, Jid),
                             recipient(sessions(User, Host)))
    end,
    Acc;
packet_sent(Acc) -> Acc.

%% Returns whether a user who sends a message has read the conversation. Pushlark infers this from the messages to users of
%% this host. A private message to an occupant of a room does not show that the user has read the room.
is_reply(Packet, Jid) ->
    {_, Host, _} = jid:tolower(Jid),
    {Other, OtherHost, _} = jid:tolower(xmpp:get_to(Packet)),
    lists:member(xmpp:get_type(Packet), [chat, normal]) andalso OtherHost =/= Host
        andalso fxml:get_subtag_cdata(xmpp:encode(Packet), <<"body">>) =/= <<>>
        andalso not maps:is_key({Other, OtherHost}, nicks(data(Jid))).

%% Mark has the message up to which the user has read the conversation, or is empty.
send_read(Host, User, Other, Mark) ->
    mod_pushlark:send_event(Host, Mark#{type => read, jid => jid:encode(jid:make(User, Host)),
                                        conversation => jid:encode(jid:remove_resource(Other))}).

%% A read mark of the user that all of the user's clients see (XEP-0490). The id of the item is the conversation.
item_published(Host, ?NS_MDS, Publisher, _Service, ItemId, Payload) ->
    Ids = [fxml:get_tag_attr_s(<<"id">>, Id) || {xmlel, <<"displayed">>, _, _} = El <- Payload,
                                                {xmlel, <<"stanza-id">>, _, _} = Id <- element(4, El)],
    case {jid:tolower(Publisher), Ids} of
        {{User, Host, _}, [Id | _]} when Id =/= <<>> ->
            try jid:decode(ItemId) of Other -> send_read(Host, User, Other, #{message => Id}) catch _:_ -> ok end;
        _ -> ok
    end;
item_published(_Host, _Node, _Publisher, _Service, _ItemId, _Payload) -> ok.

%% A contact request. IsNew is false if the user has not answered an earlier one.
contact_asked(true, Packet) ->
    case xmpp:get_type(Packet) of
        subscribe ->
            {User, Host, _} = jid:tolower(xmpp:get_to(Packet)),
            From = jid:remove_resource(xmpp:get_from(Packet)),
            mod_pushlark:send_event(Host, #{type => subscription, from => jid:encode(From),
                                            to => jid:encode(jid:make(User, Host)),
                                            recipient => recipient(sessions(User, Host))});
        _ -> ok
    end,
    true;
contact_asked(IsNew, _Packet) -> IsNew.

%% Presence. A session that may be resumed is still online; stanza_sent/3 sends the messages that it misses.
self_presence({Presence, #{jid := Jid}} = Acc) ->
    case xmpp:get_type(Presence) of
        available ->
            case priority(Presence) >= 0 of
                true ->
                    Show = fxml:get_subtag_cdata(xmpp:encode(Presence), <<"show">>),
                    show(data(Jid)) =:= Show orelse set_data(Jid, pushlark_show, Show),
                    Data = data(Jid),
                    %% A change of the text alone has no effect at Pushlark.
                    send_change(Jid, online(Data, client_state(Data)));
                false -> send_change(Jid, offline())
            end;
        unavailable -> send_change(Jid, offline());
        _ -> ok
    end,
    Acc.

priority(Presence) ->
    try binary_to_integer(fxml:get_subtag_cdata(xmpp:encode(Presence), <<"priority">>)) catch _:_ -> 0 end.

%% A resumed session continues in another process.
session_closed(_Sid, Jid, _Info) ->
    {User, Host, Resource} = jid:tolower(Jid),
    case ejabberd_sm:get_session_pid(User, Host, Resource) of
        none ->
            send_change(Jid, offline()),
            forget_told(Jid);
        Pid when node(Pid) =:= node() -> ok;
        _ -> forget_told(Jid)
    end.

online(Data, ClientState) ->
    Online = #{status => online, client_state => ClientState},
    %% RFC 6121, section 4.7.2.1.
    case lists:member(show(Data), [<<"away">>, <<"chat">>, <<"dnd">>, <<"xa">>]) of
        true -> Online#{show => show(Data)};
        false -> Online
    end.

show(Data) -> proplists:get_value(pushlark_show, Data, <<>>).

offline() -> #{status => offline}.

send_presence(Jid, Availability) -> send_presence(Jid, Availability, now_micros()).

%% Sends a presence, and notes it before. At is in microseconds since 1970.
send_presence(Jid, Availability, At) ->
    {User, Host, Resource} = jid:tolower(Jid),
    Key = {User, Resource},
    %% As at Pushlark, a newer presence stays.
    IsOlder = [{{Key, '_', '$1'}, [{'=<', '$1', At}], [{{{const, Key}, {const, Availability}, At}}]}],
    try ets:insert_new(told(Host), {Key, Availability, At}) orelse ets:select_replace(told(Host), IsOlder)
    catch error:badarg -> ok
    end,
    mod_pushlark:send_event(Host, Availability#{type => presence, jid => jid:encode(Jid), at => mod_pushlark:timestamp(At)}).

%% Sends a presence, unless the last one that was sent is the same.
send_change(Jid, Availability) ->
    told_since(Jid, 0) =:= Availability orelse send_presence(Jid, Availability).

now_micros() -> os:system_time(microsecond).

%% The table of the last presence that was sent of each session, with its time, and of the last time at which events were
%% lost. It ends with the process that has the queue of events.
told(Host) -> gen_mod:get_module_proc(Host, pushlark_told).

new_told(Host) ->
    ets:new(told(Host), [named_table, public]),
    ets:insert(told(Host), {lost, none, 0}).

events_lost(Host) -> ets:insert(told(Host), {lost, none, now_micros()}).

%% Returns the presence that was sent at this time or later, in an event that was not lost; otherwise none.
told_since(Jid, Since) ->
    {User, Host, Resource} = jid:tolower(Jid),
    try {ets:lookup(told(Host), {User, Resource}), ets:lookup_element(told(Host), lost, 3)} of
        {[{_, Told, At}], Lost} when At >= Since, At > Lost -> Told;
        _ -> none
    catch error:badarg -> none
    end.

forget_told(Jid) ->
    {User, Host, Resource} = jid:tolower(Jid),
    try ets:delete(told(Host), {User, Resource}) catch error:badarg -> ok end.

%% A session enables or disables a device. Its end must be sent, also if it is offline: it ends the tie to the device.
device_asked(Jid) ->
    told_since(Jid, 0) =:= offline() andalso forget_told(Jid).

%% Sends the presence of this node's sessions of which none was sent, without loss, in the last Period seconds: Pushlark
%% forgets a session after SESSION_LIFETIME. Returns whether no session is left.
refresh(Host, Period) ->
    At = now_micros(),
    Due = [Session || {User, Server, Resource} = Session <- ejabberd_sm:get_vh_session_list(Host),
                      told_since(jid:make(User, Server, Resource), At - Period * 1000000) =:= none],
    refresh(Due, At, ?REFRESH_SESSIONS).

refresh([], _At, _Left) -> true;
refresh(_Due, _At, 0) -> false;
refresh([{User, Host, Resource} | Due], At, Left) ->
    Data = case ejabberd_sm:get_user_info(User, Host, Resource) of offline -> []; Online -> Online end,
    case is_online(Data) andalso proplists:get_value(node, Data) =:= node() of
        true ->
            send_presence(jid:make(User, Host, Resource), online_or_lost(Data), At),
            refresh(Due, At, Left - 1);
        false -> refresh(Due, At, Left)
    end.

%% Messages that a session did not acknowledge before it was lost, and those that arrive while it is lost.
session_pending(#{mgmt_queue := Queue, jid := Jid} = State) ->
    set_data(Jid, pushlark_lost, true),
    [send_unacknowledged(State, Packet) || {_, _, Packet} <- p1_queue:to_list(Queue)],
    State;
session_pending(State) -> State.

stanza_sent(#{mgmt_state := pending} = State, Packet, _Result) ->
    send_unacknowledged(State, Packet),
    State;
stanza_sent(State, _Packet, _Result) -> State.

%% The session was given up: the message goes to the user again, who may be offline by now.
session_terminated(#{mgmt_state := Mgmt, mgmt_queue := Queue, jid := Jid} = State, _Reason)
  when Mgmt =:= active; Mgmt =:= pending; Mgmt =:= timeout ->
    {User, Host, Resource} = jid:tolower(Jid),
    Others = proplists:delete(Resource, sessions(User, Host)),
    [send_message(Host, message, jid:make(User, Host), Id, Packet, maps:merge(recipient(Others), nick(Packet, Jid)))
     || {_, _, Packet} <- p1_queue:to_list(Queue), Id <- send_unacknowledged(State, Packet)],
    State;
session_terminated(State, _Reason) -> State.

%% Returns a list with the id of the message, or an empty list if no event was sent.
send_unacknowledged(#{jid := Jid}, Packet) ->
    {_, Host, _} = jid:tolower(Jid),
    case is_notifiable(Packet) andalso id_of(Packet, Host) of
        Id when is_binary(Id) -> send_message(Host, unacknowledged, Jid, Id, Packet, nick(Packet, Jid)), [Id];
        _ -> []
    end.

user_removed(User, Host) ->
    mod_pushlark:send_event(Host, #{type => user_removed, jid => jid:encode(jid:make(User, Host))}).

send_message(Host, Type, To, Id, Packet, Recipient) ->
    Stanza = fxml:element_to_binary(xmpp:encode(Packet)),
    case byte_size(Stanza) of
        Size when Size > ?MAX_STANZA_BYTES ->
            logger:warning("message of ~B bytes to ~ts not sent to Pushlark: it is too large", [Size, jid:encode(To)]);
        _ ->
            {User, _, _} = jid:tolower(To),
            About = mod_pushlark_senders:about(Packet, User, Host, rooms(User, Host)),
            Names = maps:with([sender_name, room_name], About),
            mod_pushlark:send_event(Host, Names#{
                type => Type, id => Id, from => jid:encode(xmpp:get_from(Packet)), to => jid:encode(To), stanza => Stanza,
                recipient => maps:merge(Recipient, maps:with([sender_known], About))
            })
    end.
