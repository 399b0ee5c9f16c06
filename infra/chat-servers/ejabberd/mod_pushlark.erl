%% Sends a host's events to Pushlark: messages and contact requests to its users, their presence, messages that a lost
%% session did not acknowledge (XEP-0198), read marks, answers to calls, and removed users. Forwards the users' requests to enable and disable push notifications
%% (XEP-0357) to Pushlark. Chat never waits for Pushlark: events wait in a bounded queue in memory.
-module(mod_pushlark).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([claim_requests/0, decode_iq_subel/1, process_iq/1, account_features/5, server_features/5, message/1,
         packet_received/1, packet_sent/1, contact_asked/2, item_published/6, client_state_changed/2, self_presence/1,
         session_closed/3, session_pending/1, stanza_sent/3, session_terminated/2, user_removed/2]).

-define(NS_PUSH, <<"urn:xmpp:push:0">>).
-define(NS_SID, <<"urn:xmpp:sid:0">>).
-define(NS_CALL, <<"urn:xmpp:jingle-message:0">>).
-define(NS_MARKERS, <<"urn:xmpp:chat-markers:0">>).
-define(NS_MDS, <<"urn:xmpp:mds:displayed:0">>).
-define(NS_MUC_USER, <<"http://jabber.org/protocol/muc#user">>).
-define(HOOKS, [{disco_sm_features, account_features, 50},
                {disco_local_features, server_features, 50},
                %% Before the archive and the offline storage, so that they keep the id.
                {sm_receive_packet, message, 10},
                {user_receive_packet, packet_received, 50},
                {user_send_packet, packet_sent, 50},
                %% After mod_roster, which knows whether the request is new.
                {roster_in_subscription, contact_asked, 90},
                {pubsub_publish_item, item_published, 50},
                {csi_activity, client_state_changed, 60},
                {c2s_self_presence, self_presence, 90},
                {sm_remove_connection_hook, session_closed, 90},
                {c2s_session_pending, session_pending, 50},
                {c2s_handle_send, stanza_sent, 40},
                %% Before mod_stream_mgmt sends unacknowledged messages to the user's other sessions.
                {c2s_terminated, session_terminated, 40},
                {remove_user, user_removed, 90}]).

%% These run when all modules have started, and after the configuration was reloaded.
-define(GLOBAL_HOOKS, [ejabberd_started, config_reloaded]).

-define(BATCH_EVENTS, 100).
-define(BATCH_BYTES, 512 * 1024).
-define(MAX_STANZA_BYTES, 200 * 1024).
%% Milliseconds.
-define(FIRST_WAIT, 1000).
-define(LAST_WAIT, 60000).
-define(REPORT_WAIT, 10000).
-define(MIN_SECRET_BYTES, 16).
-define(MAX_DETAIL_CHARS, 300).

%% The queue of JSON events, its length and size in bytes, and the number of events dropped since the last report.
-record(state, {host, waiting = queue:new(), length = 0, bytes = 0, dropped = 0,
                %% The batch in flight, {Id, Events}; its request, or the timer of its retry, and the wait in milliseconds.
                batch, request, retry, wait = ?FIRST_WAIT,
                %% Whether the last batch was accepted; whether another push module was reported at a client's request.
                accepted = false, reported = false}).

start(Host, Opts) ->
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(ssl),
    %% Without the options, because a crash report shows the arguments, and one of them is the secret.
    Started = gen_mod:start_child(?MODULE, Host, #{}),
    [ejabberd_hooks:add(Hook, ?MODULE, claim_requests, 90) || Hook <- ?GLOBAL_HOOKS],
    configure(Host, Opts),
    Started.

stop(Host) ->
    gen_mod:is_loaded_elsewhere(Host, ?MODULE)
        orelse [ejabberd_hooks:delete(Hook, ?MODULE, claim_requests, 90) || Hook <- ?GLOBAL_HOOKS],
    [ejabberd_hooks:delete(Hook, Host, ?MODULE, Function, Order) || {Hook, Function, Order} <- ?HOOKS],
    [gen_iq_handler:remove_iq_handler(Where, Host, ?NS_PUSH) || Where <- [ejabberd_sm, ejabberd_local]],
    Stopped = gen_mod:stop_child(?MODULE, Host),
    persistent_term:erase({?MODULE, Host}),
    Stopped.

reload(Host, Opts, _Old) -> configure(Host, Opts).

depends(_Host, _Opts) -> [].

%% read_settings/1 checks the values: a bad value turns push off. If ejabberd refused it, ejabberd would not start.
mod_opt_type(_Option) -> econf:any().

mod_options(_Host) ->
    [{url, <<>>}, {enable_url, <<>>}, {disable_url, <<>>}, {events_url, <<>>}, {secret, <<>>},
     {timeout, 10}, {queue_size, 10000}, {queue_bytes, 16 * 1024 * 1024}, {csi_events, false}].

mod_doc() -> #{desc => <<"Push notifications (XEP-0357) by Pushlark.">>}.

%% Without valid settings push is off, and chat goes on.
configure(Host, Opts) ->
    Former = settings(Host),
    case read_settings(Opts) of
        {ok, Settings} ->
            maps:get(key, Settings) =:= none andalso
                logger:warning("~ts: secret is not set: only a Pushlark without WEBHOOK_SECRET accepts unsigned requests",
                               [Host]),
            persistent_term:put({?MODULE, Host}, Settings),
            Former =:= off andalso
                [ejabberd_hooks:add(Hook, Host, ?MODULE, Function, Order) || {Hook, Function, Order} <- ?HOOKS],
            claim_requests(Host),
            gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), try_now);
        {error, Problems} ->
            Then = case Former of off -> "Push is off"; _ -> "Settings not changed" end,
            logger:error("~ts: ~ts: ~ts", [Host, Then, lists:join("; ", Problems)])
    end,
    ok.

settings(Host) -> persistent_term:get({?MODULE, Host}, off).

setting(Host, Name) -> maps:get(Name, settings(Host)).

%% Returns the settings, or all problems with them. No problem quotes the secret.
read_settings(Opts) ->
    {Numbers, BadNumbers} = lists:unzip([number(Name, Opts) || Name <- [queue_size, queue_bytes]]),
    {Timeout, BadTimeout} = timeout(gen_mod:get_opt(timeout, Opts)),
    {Key, BadKey} = key(gen_mod:get_opt(secret, Opts)),
    {[Base | Own], BadUrls} = lists:unzip([url(Name, Opts) || Name <- [url, enable_url, disable_url, events_url]]),
    {CsiEvents, BadCsiEvents} = case econf:validate(econf:bool(), gen_mod:get_opt(csi_events, Opts)) of
        {ok, Switch} -> {Switch, []};
        _ -> {false, ["csi_events must be true or false"]}
    end,
    Names = [<<"enable">>, <<"disable">>, <<"events">>],
    BadMissing = case [[Name, "_url"] || {Name, none} <- lists:zip(Names, Own), Base =:= none] of
        [] -> [];
        Missing -> [["neither url nor ", lists:join(", ", Missing), " is set"]]
    end,
    case lists:append([BadTimeout, BadKey, BadMissing, BadCsiEvents | BadNumbers ++ BadUrls]) of
        [] ->
            Urls = [{Name, case Url of none -> <<Base/binary, "/", Name/binary>>; _ -> Url end}
                    || {Name, Url} <- lists:zip(Names, Own)],
            {ok, maps:from_list([{timeout, Timeout}, {key, Key}, {csi_events, CsiEvents} | Numbers ++ Urls])};
        Problems -> {error, Problems}
    end.

number(Name, Opts) ->
    case econf:validate(econf:pos_int(), gen_mod:get_opt(Name, Opts)) of
        {ok, Number} -> {{Name, Number}, []};
        _ -> {none, [io_lib:format("~ts must be a whole number of at least 1", [Name])]}
    end.

timeout(Value) ->
    case econf:validate(econf:timeout(second), Value) of
        {ok, Timeout} when Timeout >= 1000, Timeout =< 600000 -> {Timeout, []};
        _ -> {none, ["timeout must be between 1 and 600 seconds"]}
    end.

url(Name, Opts) ->
    Value = gen_mod:get_opt(Name, Opts),
    case econf:validate(econf:binary("^(https?://[^\\s/?#]+[^\\s#]*)?$"), Value) of
        {ok, <<>>} -> {none, []};
        {ok, Url} when Name =:= url -> {string:trim(Url, trailing, "/"), []};
        {ok, Url} -> {Url, []};
        _ -> {bad, [io_lib:format("~ts must be a URL that starts with https:// or http://", [Name])]}
    end.

key(Value) ->
    case econf:validate(econf:binary(), Value) of
        {ok, <<>>} -> {none, []};
        {ok, Secret} ->
            try key_of(string:trim(Secret)) of
                Key when byte_size(Key) >= ?MIN_SECRET_BYTES -> {Key, []};
                _ -> {none, [io_lib:format("secret must have at least ~B bytes", [?MIN_SECRET_BYTES])]}
            catch _:_ -> {none, ["secret must be base64 after whsec_"]}
            end;
        _ -> {none, ["secret must be a string"]}
    end.

key_of(<<"whsec_", Encoded/binary>>) ->
    Key = base64:decode(Encoded),
    Encoded = base64:encode(Key),
    Key;
key_of(Secret) -> Secret.

%% ejabberd's own push modules answer the same requests, and send notifications themselves. ejabberd gives the requests
%% to the module that registered last.
claim_requests() -> [claim_requests(Host) || Host <- ejabberd_option:hosts(), settings(Host) =/= off].

claim_requests(Host) ->
    [gen_iq_handler:add_iq_handler(Where, Host, ?NS_PUSH, ?MODULE, process_iq) || Where <- [ejabberd_sm, ejabberd_local]],
    report_others(Host).

report_others(Host) ->
    case [Module || Module <- [mod_push, mod_push_keepalive], gen_mod:is_loaded(Host, Module)] of
        [] -> false;
        Others ->
            logger:error("~ts: this host also has ~ts, so users may be notified twice: unload one push module",
                         [Host, lists:join(" and ", [atom_to_list(Module) || Module <- Others])]),
            true
    end.

%% Pushlark answers requests to enable and disable, so they are not decoded here.
decode_iq_subel(Element) -> Element.

process_iq(Iq) ->
    From = xmpp:get_from(Iq),
    To = xmpp:get_to(Iq),
    {User, Host, _} = jid:tolower(From),
    [Element] = xmpp:get_els(Iq),
    Name = element(2, Element),
    case jid:tolower(To) of
        _ when Name =/= <<"enable">>, Name =/= <<"disable">> -> xmpp:make_error(Iq, xmpp:err_bad_request());
        {ToUser, Host, _} when ToUser =:= User; ToUser =:= <<>> -> spawn(fun() -> forward(Host, Name, Iq) end), ignore;
        _ -> xmpp:make_error(Iq, xmpp:err_forbidden())
    end.

forward(Host, Name, Iq) ->
    gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), client_asked),
    Body = fxml:element_to_binary(xmpp:encode(Iq)),
    Result = case post(Host, Name, "application/xmpp+xml", new_id(), Body) of
        {ok, Request} ->
            receive {http, {Request, Answer}} -> Answer
            after overdue(Host) -> busy()
            end;
        Failed -> Failed
    end,
    case reply(Iq, Result) of
        none ->
            logger:warning("~ts: Request to ~ts push failed at ~ts: ~ts; the client may retry",
                           [Host, Name, shown(setting(Host, Name)), described(Result)]),
            ejabberd_router:route_error(Iq, xmpp:err_resource_constraint(explained(Result), <<"en">>));
        Reply -> ejabberd_router:route(Reply)
    end.

reply(Iq, {{_, 200, _}, _, Body}) ->
    try
        Reply = xmpp:decode(fxml_stream:parse_element(Body), <<"jabber:client">>, [ignore_els]),
        true = element(1, Reply) =:= iq andalso xmpp:get_id(Reply) =:= xmpp:get_id(Iq),
        xmpp:set_from_to(Reply, xmpp:get_to(Iq), xmpp:get_from(Iq))
    catch _:_ -> none
    end;
reply(_Iq, _Result) -> none.

%% Returns the error text for the client.
explained({{_, Code, _}, _, _}) when Code =:= 401; Code =:= 403 ->
    <<"Push is not available: the push service refuses this server. The server's operator must check the secret">>;
explained({{_, Code, _}, _, _}) when Code =:= 429; Code >= 500 ->
    <<"Push is not available now: the push service is busy. Try again later">>;
explained({{_, _, _}, _, _}) ->
    <<"Push is not available: there is no push service at its URL. The server's operator must check the URL">>;
explained(_Error) ->
    <<"Push is not available now: the push service does not respond. Try again later">>.

account_features(Features, From, To, <<>>, _Lang) ->
    case {jid:remove_resource(jid:tolower(From)), jid:remove_resource(jid:tolower(To))} of
        {Same, Same} -> announced(Features);
        _ -> Features
    end;
account_features(Features, _From, _To, _Node, _Lang) -> Features.

server_features(Features, _From, _To, <<>>, _Lang) -> announced(Features);
server_features(Features, _From, _To, _Node, _Lang) -> Features.

announced({result, Features}) -> {result, [?NS_PUSH | Features]};
announced(empty) -> {result, [?NS_PUSH]};
announced(Error) -> Error.

%% Messages. The host adds a stanza-id (XEP-0359) to each, so that a repeat after a lost session has the same id. The
%% packet's metadata also has the id; only this server can set metadata.
message(Packet) when element(1, Packet) =:= message ->
    {User, Host, Resource} = jid:tolower(xmpp:get_to(Packet)),
    case is_notifiable(Packet) andalso User =/= <<>> andalso ejabberd_auth:user_exists(User, Host)
         andalso is_allowed(Packet, Host) of
        true ->
            {Id, Marked} = marked(Packet, Host),
            Sessions = sessions(User, Host),
            step(Packet) =:= <<"propose">> andalso send_all_presence(User, Host, Sessions),
            Recipient = maps:merge(recipient(Sessions), nick(Packet, proplists:get_value(Resource, Sessions, []))),
            send_message(Host, message, jid:make(User, Host), Id, Marked, Recipient),
            Marked;
        _ -> Packet
    end;
message(Packet) -> Packet.

marked(Packet, Host) ->
    case xmpp:get_meta(Packet, pushlark_id, none) of
        none ->
            Foreign = [El || El <- els(Packet), not is_stanza_id(El, Host)],
            Id = case room_id(Packet, Foreign) of none -> new_id(); Known -> Known end,
            StanzaId = {xmlel, <<"stanza-id">>, [{<<"xmlns">>, ?NS_SID}, {<<"by">>, Host}, {<<"id">>, Id}], []},
            {Id, xmpp:put_meta(xmpp:set_els(Packet, [StanzaId | Foreign]), pushlark_id, Id)};
        Id -> {Id, Packet}
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

%% Returns the name of a message's child in the namespace of XEP-0353, or none.
step(Packet) ->
    case [Name || {xmlel, Name, _, _} = El <- els(Packet), fxml:get_tag_attr_s(<<"xmlns">>, El) =:= ?NS_CALL] of
        [Step | _] -> Step;
        [] -> none
    end.

%% Checks the user's privacy and block lists, which ejabberd does only later.
is_allowed(Packet, Host) ->
    allow =:= ejabberd_hooks:run_fold(privacy_check_packet, Host, allow, [xmpp:get_to(Packet), Packet, in]).

%% The sessions of a user that receive messages: their resources and data. The data of a session can be changed only by
%% its own process, and is gone when the session is resumed, so that its client is active again.
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

%% Returns the field recipient of an event. The user is inactive if the clients of all sessions are.
recipient([]) -> #{exists => true, online => false};
recipient(Sessions) ->
    IsActive = lists:any(fun({_, Data}) -> client_state(Data) =:= active end, Sessions),
    #{exists => true, online => true, client_state => case IsActive of true -> active; false -> inactive end}.

client_state(Data) -> proplists:get_value(pushlark_client_state, Data, active).

client_state_changed(#{jid := Jid} = State, ClientState) ->
    {User, Host, Resource} = jid:tolower(Jid),
    set_data(Jid, pushlark_client_state, ClientState),
    setting(Host, csi_events) andalso proplists:is_defined(Resource, sessions(User, Host))
        andalso send_presence(Jid, true, ClientState),
    State.

%% Before a call: a device whose session is online and active rings without a notification. The client of a lost session
%% cannot be reached.
send_all_presence(User, Host, Sessions) ->
    [send_presence(jid:make(User, Host, Resource), true,
                   case proplists:get_bool(pushlark_lost, Data) of true -> inactive; false -> client_state(Data) end)
     || {Resource, Data} <- Sessions].

%% The nicks of a session in rooms, as the rooms confirm them (XEP-0045, status code 110).
packet_received({Packet, #{jid := Jid}} = Acc) when element(1, Packet) =:= presence ->
    Elements = [xmpp:encode(El) || El <- xmpp:get_els(Packet), xmpp:get_ns(El) =:= ?NS_MUC_USER],
    case [self || El <- Elements, {xmlel, <<"status">>, _, _} = Status <- element(4, El),
                  fxml:get_tag_attr_s(<<"code">>, Status) =:= <<"110">>] of
        [] -> Acc;
        _ ->
            {Room, RoomHost, _} = jid:tolower(xmpp:get_from(Packet)),
            {_, _, Nick} = jid:split(xmpp:get_from(Packet)),
            Nicks = proplists:get_value(pushlark_nicks, data(Jid), #{}),
            Changed = case xmpp:get_type(Packet) of
                available -> Nicks#{{Room, RoomHost} => Nick};
                _ -> maps:remove({Room, RoomHost}, Nicks)
            end,
            set_data(Jid, pushlark_nicks, Changed),
            Acc
    end;
packet_received(Acc) -> Acc.

%% Returns the nick of a session in the room that sends it a message, as a part of the field recipient.
nick(Packet, Data) ->
    {Room, RoomHost, _} = jid:tolower(xmpp:get_from(Packet)),
    case proplists:get_value(pushlark_nicks, Data, #{}) of
        #{{Room, RoomHost} := Nick} -> case xmpp:get_type(Packet) of groupchat -> #{nick => Nick}; _ -> #{} end;
        _ -> #{}
    end.

data(Jid) ->
    {User, Host, Resource} = jid:tolower(Jid),
    case ejabberd_sm:get_user_info(User, Host, Resource) of offline -> []; Data -> Data end.

%% What a session sends. A displayed marker (XEP-0333) is a read mark. An answer to a call is an event for the user, so that
%% the user's other devices stop ringing. message/1 sends what the user sends to the own bare JID.
packet_sent({Packet, #{jid := Jid}} = Acc) when element(1, Packet) =:= message ->
    {User, Host, _} = jid:tolower(Jid),
    To = xmpp:get_to(Packet),
    case To =:= undefined orelse xmpp:get_type(Packet) =:= error orelse same_user(Jid, To) of
        true -> ok;
        false ->
            [send_read(Host, User, jid:remove_resource(To), fxml:get_tag_attr_s(<<"id">>, El))
             || {xmlel, <<"displayed">>, _, _} = El <- els(Packet), fxml:get_tag_attr_s(<<"xmlns">>, El) =:= ?NS_MARKERS],
            is_answer(step(Packet)) andalso
                send_message(Host, message, jid:make(User, Host), new_id(), xmpp:set_from(Packet, Jid),
                             recipient(sessions(User, Host)))
    end,
    Acc;
packet_sent(Acc) -> Acc.

send_read(_Host, _User, _Conversation, <<>>) -> ok;
send_read(Host, User, Conversation, Message) ->
    send_event(Host, #{type => read, jid => jid:encode(jid:make(User, Host)), conversation => jid:encode(Conversation),
                       message => Message}).

%% A read mark of the user that all of the user's clients see (XEP-0490). The id of the item is the conversation.
item_published(Host, ?NS_MDS, Publisher, _Service, ItemId, Payload) ->
    Ids = [fxml:get_tag_attr_s(<<"id">>, Id) || {xmlel, <<"displayed">>, _, _} = El <- Payload,
                                                {xmlel, <<"stanza-id">>, _, _} = Id <- element(4, El)],
    case {jid:tolower(Publisher), Ids} of
        {{User, Host, _}, [Id | _]} ->
            try send_read(Host, User, jid:remove_resource(jid:decode(ItemId)), Id) catch _:_ -> ok end;
        _ -> ok
    end;
item_published(_Host, _Node, _Publisher, _Service, _ItemId, _Payload) -> ok.

%% A contact request. IsNew is false if the user has not answered an earlier one.
contact_asked(true, Packet) ->
    case xmpp:get_type(Packet) of
        subscribe ->
            {User, Host, _} = jid:tolower(xmpp:get_to(Packet)),
            send_event(Host, #{type => subscription, from => jid:encode(jid:remove_resource(xmpp:get_from(Packet))),
                               to => jid:encode(jid:make(User, Host)), recipient => recipient(sessions(User, Host))});
        _ -> ok
    end,
    true;
contact_asked(IsNew, _Packet) -> IsNew.

%% Presence. A session that may be resumed is still online; stanza_sent/3 sends the messages that it misses.
self_presence({Presence, #{jid := Jid}} = Acc) ->
    case xmpp:get_type(Presence) of
        available -> send_presence(Jid, priority(Presence) >= 0, client_state(data(Jid)));
        unavailable -> send_presence(Jid, false, inactive);
        _ -> ok
    end,
    Acc.

priority(Presence) ->
    try binary_to_integer(fxml:get_subtag_cdata(xmpp:encode(Presence), <<"priority">>)) catch _:_ -> 0 end.

%% A resumed session continues in another process.
session_closed(_Sid, Jid, _Info) ->
    {User, Host, Resource} = jid:tolower(Jid),
    case ejabberd_sm:get_session_pid(User, Host, Resource) of
        none -> send_presence(Jid, false, inactive);
        _ -> ok
    end.

send_presence(Jid, Online, ClientState) ->
    {_, Host, _} = jid:tolower(Jid),
    Event = #{type => presence, jid => jid:encode(Jid)},
    send_event(Host, case Online of
        true -> Event#{status => online, client_state => ClientState};
        false -> Event#{status => offline}
    end).

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
    [send_message(Host, message, jid:make(User, Host), Id, Packet, maps:merge(recipient(Others), nick(Packet, data(Jid))))
     || {_, _, Packet} <- p1_queue:to_list(Queue), Id <- send_unacknowledged(State, Packet)],
    State;
session_terminated(State, _Reason) -> State.

%% Returns a list with the id of the message, or an empty list if no event was sent.
send_unacknowledged(#{jid := Jid}, Packet) ->
    {_, Host, _} = jid:tolower(Jid),
    case is_notifiable(Packet) andalso id_of(Packet, Host) of
        Id when is_binary(Id) -> send_message(Host, unacknowledged, Jid, Id, Packet, nick(Packet, data(Jid))), [Id];
        _ -> []
    end.

user_removed(User, Host) ->
    send_event(Host, #{type => user_removed, jid => jid:encode(jid:make(User, Host))}).

send_message(Host, Type, To, Id, Packet, Recipient) ->
    Stanza = fxml:element_to_binary(xmpp:encode(Packet)),
    Event = #{type => Type, id => Id, from => jid:encode(xmpp:get_from(Packet)), to => jid:encode(To), stanza => Stanza},
    case byte_size(Stanza) of
        Size when Size > ?MAX_STANZA_BYTES ->
            logger:warning("message of ~B bytes to ~ts not sent to Pushlark: it is too large", [Size, jid:encode(To)]);
        _ when map_size(Recipient) =:= 0 -> send_event(Host, Event);
        _ -> send_event(Host, Event#{recipient => Recipient})
    end.

send_event(Host, Event) ->
    At = calendar:system_time_to_rfc3339(os:system_time(microsecond), [{unit, microsecond}, {offset, "Z"}]),
    gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), {send_event, to_json(Event#{at => list_to_binary(At)})}).

%% The queue of events, and the one batch in flight.
init([Host | _]) ->
    process_flag(trap_exit, true),
    start_client(Host),
    {ok, #state{host = Host}}.

handle_call(_Request, _From, State) -> {reply, ok, State}.

handle_cast({send_event, Event}, State) -> {noreply, next_batch(enqueue(Event, State))};
%% Retry at once, since the new settings may be the right ones.
handle_cast(try_now, #state{retry = undefined} = State) -> {noreply, next_batch(State#state{wait = ?FIRST_WAIT})};
handle_cast(try_now, #state{retry = Retry} = State) ->
    erlang:cancel_timer(Retry),
    {noreply, send_batch(State#state{wait = ?FIRST_WAIT})};
handle_cast(client_asked, #state{host = Host, reported = Reported} = State) ->
    {noreply, State#state{reported = Reported orelse report_others(Host)}}.

handle_info({http, {Request, Result}}, #state{request = Request} = State) ->
    {noreply, answered(Result, State#state{request = undefined})};
handle_info({timeout, _, {overdue, Request}}, #state{host = Host, request = Request} = State) ->
    start_client(Host),
    {noreply, answered(busy(), State#state{request = undefined})};
handle_info({timeout, Retry, try_again}, #state{retry = Retry} = State) -> {noreply, send_batch(State)};
handle_info(report_dropped, State) -> {noreply, report_dropped(State)};
handle_info(_Info, State) -> {noreply, State}.

terminate(_Reason, #state{host = Host, length = Length, batch = Batch, request = Request} = State) ->
    Request =:= undefined orelse httpc:cancel_request(Request, client(Host)),
    inets:stop(httpc, client(Host)),
    report_dropped(State),
    case Length + batch_size(Batch) of
        0 -> ok;
        Lost -> logger:error("~ts: ~B events lost: the module stopped before they were sent", [Host, Lost])
    end.

report_dropped(#state{dropped = 0} = State) -> State;
report_dropped(#state{host = Host, dropped = Dropped} = State) ->
    logger:error("~ts: ~B events lost: the queue is full (queue_size is ~B, queue_bytes is ~B)",
                 [Host, Dropped, setting(Host, queue_size), setting(Host, queue_bytes)]),
    State#state{dropped = 0}.

batch_size(undefined) -> 0;
batch_size({_, Events}) -> length(Events).

%% Adds an event, and drops the oldest events if the queue is full. One event always fits.
enqueue(Event, #state{waiting = Waiting, length = Length, bytes = Bytes, dropped = Dropped, host = Host} = State) ->
    case Length < setting(Host, queue_size) andalso Bytes + byte_size(Event) =< setting(Host, queue_bytes) of
        Fits when Fits; Length =:= 0 ->
            State#state{waiting = queue:in(Event, Waiting), length = Length + 1, bytes = Bytes + byte_size(Event)};
        _ ->
            Dropped > 0 orelse erlang:send_after(?REPORT_WAIT, self(), report_dropped),
            {{value, Oldest}, Rest} = queue:out(Waiting),
            Left = Bytes - byte_size(Oldest),
            enqueue(Event, State#state{waiting = Rest, length = Length - 1, bytes = Left, dropped = Dropped + 1})
    end.

next_batch(#state{batch = undefined, length = Length, bytes = Bytes} = State) when Length > 0 ->
    {Events, Rest} = take(State#state.waiting, [], 0),
    Left = State#state{waiting = Rest, length = Length - length(Events), bytes = Bytes - iolist_size(Events)},
    send_batch(Left#state{batch = {new_id(), Events}, wait = ?FIRST_WAIT});
next_batch(State) -> State.

take(Waiting, Events, Bytes) ->
    case queue:out(Waiting) of
        {{value, Event}, Rest} when Events =:= [];
                                    length(Events) < ?BATCH_EVENTS, Bytes + byte_size(Event) =< ?BATCH_BYTES ->
            take(Rest, [Event | Events], Bytes + byte_size(Event));
        _ -> {lists:reverse(Events), Waiting}
    end.

send_batch(#state{host = Host, batch = {Id, Events}} = State) ->
    Body = iolist_to_binary([$[, lists:join($,, Events), $]]),
    case post(Host, <<"events">>, "application/json", Id, Body) of
        {ok, Request} ->
            erlang:start_timer(overdue(Host), self(), {overdue, Request}),
            State#state{request = Request, retry = undefined};
        Failed -> answered(Failed, State#state{retry = undefined})
    end.

answered(Result, #state{host = Host, batch = {_, Events}} = State) ->
    Url = shown(setting(Host, <<"events">>)),
    case {Result, problem(Result)} of
        {{{_, 202, _}, _, _}, _} ->
            State#state.accepted orelse logger:info("~ts: Pushlark accepts events at ~ts", [Host, Url]),
            next_batch(State#state{batch = undefined, accepted = true});
        %% Bad events stay bad, so they are dropped. Other failures are retried: even a wrong secret can be corrected.
        {{{_, Code, _}, _, _}, #{} = Problem} when Code =:= 400; Code =:= 413; Code =:= 415 ->
            Good = good_events(Problem, Events),
            logger:error("~ts: ~B events lost: refused by ~ts: ~ts",
                         [Host, length(Events) - length(Good), Url, described(Result)]),
            case Good of
                [] -> next_batch(State#state{batch = undefined});
                _ -> send_batch(State#state{batch = {new_id(), Good}})
            end;
        _ ->
            Most = min(asked(Result, State#state.wait), ?LAST_WAIT),
            Wait = Most * 3 div 4 + rand:uniform(Most div 2),
            logger:warning("~ts: Events not accepted by ~ts: ~ts; ~B events waiting, retry in ~B s",
                           [Host, Url, described(Result), length(Events) + State#state.length, max(1, round(Wait / 1000))]),
            Retry = erlang:start_timer(Wait, self(), try_again),
            State#state{retry = Retry, wait = min(State#state.wait * 2, ?LAST_WAIT), accepted = false}
    end.

%% Returns the events of a batch that a problem does not list as bad; none if it lists none.
good_events(Problem, Events) ->
    Bad = case Problem of
        #{<<"errors">> := Errors} when is_list(Errors) -> [Index || #{<<"index">> := Index} <- Errors];
        _ -> []
    end,
    case [Event || {Index, Event} <- lists:zip(lists:seq(0, length(Events) - 1), Events), not lists:member(Index, Bad)] of
        Events -> [];
        Good -> Good
    end.

%% Returns the wait that Pushlark asks for (Retry-After), in milliseconds.
asked({_, Headers, _}, Default) ->
    try max(1000, 1000 * list_to_integer(proplists:get_value("retry-after", Headers))) catch _:_ -> Default end;
asked(_, Default) -> Default.

%% Returns the problem details (RFC 9457) of a response from Pushlark, or none.
problem({{_, _, _}, Headers, Body}) ->
    try
        "application/problem+json" ++ _ = proplists:get_value("content-type", Headers),
        #{} = from_json(Body)
    catch _:_ -> none
    end;
problem(_Error) -> none.

%% Describes a failure for the log: no response, or an unexpected status.
described({{_, Code, _}, Headers, _} = Answer) ->
    Location = proplists:get_value("location", Headers),
    Reason = case problem(Answer) of
        #{<<"detail">> := Detail} when is_binary(Detail) -> cleaned(Detail);
        #{} -> "no detail";
        none when Location =/= undefined, Code div 100 =:= 3 -> ["redirect to ", shown(cleaned(Location))];
        none -> ["not a Pushlark response: ", cleaned(proplists:get_value("content-type", Headers, "no content type"))]
    end,
    io_lib:format("status ~B (~ts)", [Code, Reason]);
described({error, Reason}) -> io_lib:format("no response (~ts)", [reason(Reason)]).

%% Translates the reason of a failed request, an Erlang term, for the log.
reason({failed_connect, Tried}) -> reason(element(3, lists:last([Try || {_, _, _} = Try <- Tried])));
reason({tls_alert, {Alert, _}}) -> ["TLS fails: ", string:replace(atom_to_list(Alert), "_", " ", all)];
reason(timeout) -> "timeout";
reason(nxdomain) -> "the host name cannot be resolved";
reason(closed) -> "the connection was closed";
reason(socket_closed_remotely) -> "the connection was closed";
reason(Reason) when is_atom(Reason) ->
    case inet:format_error(Reason) of "unknown POSIX error" ++ _ -> atom_to_list(Reason); Known -> Known end;
reason(_Reason) -> "the connection fails".

%% Removes user, password and query from a URL, for the log.
shown(Url) -> re:replace(re:replace(Url, "//[^/@]*@", "//"), "\\?.*", "", [dotall, unicode, {return, binary}]).

%% Makes a text from outside safe to log: one line, limited length.
cleaned(Text) ->
    Chars = case unicode:characters_to_list(Text) of
        List when is_list(List) -> List;
        {_, List, _} -> List
    end,
    Line = [case Char < 32 orelse Char >= 127 andalso Char < 160 of true -> $\s; false -> Char end || Char <- Chars],
    case string:length(Line) > ?MAX_DETAIL_CHARS of
        true -> [string:slice(Line, 0, ?MAX_DETAIL_CHARS), "…"];
        false -> Line
    end.

%% Each host has its own HTTP client, because only stopping the client surely ends its requests: httpc does not report a
%% 503 with Retry-After, but repeats the request as long as it gets this response.
client(Host) -> gen_mod:get_module_proc(Host, ?MODULE).

start_client(Host) ->
    inets:stop(httpc, client(Host)),
    {ok, _} = inets:start(httpc, [{profile, client(Host)}]).

%% The time in milliseconds after which httpc should have reported a response or a failure.
overdue(Host) -> setting(Host, timeout) + 1000.

busy() -> {{"HTTP/1.1", 503, ""}, [{"content-type", "application/problem+json"}], <<"{\"detail\": \"in each attempt\"}">>}.

%% Posts a body. The id is the same in each retry (Standard Webhooks).
post(Host, Name, ContentType, Id, Body) ->
    #{Name := Address, timeout := Timeout, key := Key} = settings(Host),
    Timestamp = integer_to_binary(os:system_time(second)),
    Signature = case Key of
        none -> [];
        _ ->
            Mac = crypto:mac(hmac, sha256, Key, [Id, $., Timestamp, $., Body]),
            [{"webhook-id", binary_to_list(Id)}, {"webhook-timestamp", binary_to_list(Timestamp)},
             {"webhook-signature", binary_to_list(<<"v1,", (base64:encode(Mac))/binary>>)}]
    end,
    Url = binary_to_list(Address),
    Tls = case Url of "https:" ++ _ -> [{ssl, httpc:ssl_verify_host_options(true)}]; _ -> [] end,
    Limits = [{timeout, Timeout}, {connect_timeout, Timeout}, {autoredirect, false}],
    Options = [{body_format, binary}, {sync, false}],
    httpc:request(post, {Url, Signature, ContentType, Body}, Limits ++ Tls, Options, client(Host)).

new_id() -> string:lowercase(binary:encode_hex(crypto:strong_rand_bytes(16))).

%% ejabberd has its own JSON functions since 24.12.
to_json(Map) ->
    case erlang:function_exported(misc, json_encode, 1) of
        true -> misc:json_encode(Map);
        false -> iolist_to_binary(jiffy:encode(Map))
    end.

from_json(Body) ->
    case erlang:function_exported(misc, json_decode, 1) of
        true -> misc:json_decode(Body);
        false -> jiffy:decode(Body, [return_maps])
    end.
