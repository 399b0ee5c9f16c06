%% Tells Pushlark what happens at a host: messages to its users, their presence, what a lost session did not acknowledge
%% (XEP-0198), and users that are removed; and lets Pushlark answer the users' requests to enable and disable push
%% notifications (XEP-0357). Nothing waits for Pushlark: events are queued in memory, within a bound.
-module(mod_pushlark).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([decode_iq_subel/1, process_iq/1, account_features/5, server_features/5, message/1, self_presence/1,
         session_closed/3, session_pending/1, stanza_sent/3, session_terminated/2, user_removed/2]).

-define(NS_PUSH, <<"urn:xmpp:push:0">>).
-define(NS_SID, <<"urn:xmpp:sid:0">>).
-define(HOOKS, [{disco_sm_features, account_features, 50},
                {disco_local_features, server_features, 50},
                %% Before the archive and the offline storage, which keep the id that is given here.
                {sm_receive_packet, message, 10},
                {c2s_self_presence, self_presence, 90},
                {sm_remove_connection_hook, session_closed, 90},
                {c2s_session_pending, session_pending, 50},
                {c2s_handle_send, stanza_sent, 40},
                %% Before mod_stream_mgmt sends what was not acknowledged to the user's other sessions.
                {c2s_terminated, session_terminated, 40},
                {remove_user, user_removed, 90}]).

-define(BATCH_EVENTS, 100).
-define(BATCH_BYTES, 512 * 1024).
-define(MAX_STANZA_BYTES, 200 * 1024).
%% Milliseconds.
-define(FIRST_WAIT, 1000).
-define(LAST_WAIT, 60000).
-define(REPORT_WAIT, 10000).

%% The events that wait, how many they are and how many bytes they have; how many were dropped since the last report.
-record(state, {host, waiting = queue:new(), length = 0, bytes = 0, dropped = 0,
                %% The events that are on their way, {Id, Events}, and the request that they are on their way by.
                batch, request, wait = ?FIRST_WAIT}).

start(Host, Opts) ->
    [error({mod_pushlark, Option, or_url, <<"must be set">>})
     || Option <- [enable_url, disable_url, events_url], gen_mod:get_opt(Option, Opts) =:= <<>>, gen_mod:get_opt(url, Opts) =:= <<>>],
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(ssl),
    [ejabberd_hooks:add(Hook, Host, ?MODULE, Function, Order) || {Hook, Function, Order} <- ?HOOKS],
    [gen_iq_handler:add_iq_handler(Where, Host, ?NS_PUSH, ?MODULE, process_iq) || Where <- [ejabberd_sm, ejabberd_local]],
    gen_mod:start_child(?MODULE, Host, Opts).

stop(Host) ->
    [ejabberd_hooks:delete(Hook, Host, ?MODULE, Function, Order) || {Hook, Function, Order} <- ?HOOKS],
    [gen_iq_handler:remove_iq_handler(Where, Host, ?NS_PUSH) || Where <- [ejabberd_sm, ejabberd_local]],
    gen_mod:stop_child(?MODULE, Host).

reload(_Host, _New, _Old) -> ok.

depends(_Host, _Opts) -> [].

mod_opt_type(queue_size) -> econf:pos_int();
mod_opt_type(queue_bytes) -> econf:pos_int();
mod_opt_type(timeout) -> econf:timeout(second);
mod_opt_type(secret) -> econf:binary();
mod_opt_type(_Url) -> econf:url().

mod_options(_Host) ->
    [{url, <<>>}, {enable_url, <<>>}, {disable_url, <<>>}, {events_url, <<>>}, {secret, <<>>},
     {timeout, timer:seconds(10)}, {queue_size, 10000}, {queue_bytes, 16 * 1024 * 1024}].

mod_doc() -> #{desc => <<"Push notifications (XEP-0357) by Pushlark.">>}.

%% Requests to enable and to disable are Pushlark's to answer, as they came.
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
    Body = fxml:element_to_binary(xmpp:encode(Iq)),
    Reply = case post(Host, Name, "application/xmpp+xml", new_id(), Body, [{sync, true}]) of
        {ok, {{_, 200, _}, _, Answer}} -> answer(Iq, Answer);
        Other -> {none, describe(Other)}
    end,
    case Reply of
        {none, Why} ->
            logger:warning("~ts: Pushlark answers ~ts", [Name, Why]),
            Text = <<"The push service does not answer, try again">>,
            ejabberd_router:route_error(Iq, xmpp:err_resource_constraint(Text, <<"en">>));
        _ ->
            ejabberd_router:route(Reply)
    end.

answer(Iq, Body) ->
    try
        Reply = xmpp:decode(fxml_stream:parse_element(Body), <<"jabber:client">>, [ignore_els]),
        true = element(1, Reply) =:= iq andalso xmpp:get_id(Reply) =:= xmpp:get_id(Iq),
        xmpp:set_from_to(Reply, xmpp:get_to(Iq), xmpp:get_from(Iq))
    catch _:_ -> {none, <<"with no IQ">>}
    end.

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

%% Messages. Each is marked with an id of the host's (XEP-0359), by which it is known again when a session loses it. What
%% comes a second time keeps its id, in what only this server can set.
message(Packet) when element(1, Packet) =:= message ->
    {User, Host, _} = jid:tolower(xmpp:get_to(Packet)),
    case is_told(Packet) andalso User =/= <<>> andalso ejabberd_auth:user_exists(User, Host) andalso is_let_in(Packet, Host) of
        true ->
            {Id, Marked} = marked(Packet, Host),
            tell_message(Host, message, jid:make(User, Host), Id, Marked, recipient(User, Host, none)),
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

%% A room names the message that it sends to each session of a user (XEP-0045).
room_id(Packet, Els) ->
    Room = jid:encode(jid:remove_resource(xmpp:get_from(Packet))),
    case [Id || El <- Els, xmpp:get_type(Packet) =:= groupchat, is_stanza_id(El, Room),
                {<<"id">>, Id} <- element(3, El), Id =/= <<>>, byte_size(Id) =< 128] of
        [Id | _] when byte_size(Room) =< 127 -> <<Room/binary, "/", Id/binary>>;
        _ -> none
    end.

%% Children as elements, whether they came decoded or not.
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

is_told(Packet) ->
    element(1, Packet) =:= message andalso lists:member(xmpp:get_type(Packet), [chat, groupchat, normal])
        andalso xmpp:get_from(Packet) =/= undefined.

%% What the user's privacy lists and blocks let in, which ejabberd asks about later only.
is_let_in(Packet, Host) ->
    allow =:= ejabberd_hooks:run_fold(privacy_check_packet, Host, allow, [xmpp:get_to(Packet), Packet, in]).

%% What is known of a user, whose lost session does not count.
recipient(User, Host, Lost) ->
    Online = [R || {Priority, R} <- ejabberd_sm:get_user_present_resources(User, Host), Priority >= 0, R =/= Lost],
    #{exists => true, online => Online =/= []}.

%% Presence. A session that may be resumed is still online; what it misses is told message by message.
self_presence({Presence, #{jid := Jid}} = Acc) ->
    case xmpp:get_type(Presence) of
        available -> tell_presence(Jid, priority(Presence) >= 0);
        unavailable -> tell_presence(Jid, false);
        _ -> ok
    end,
    Acc.

priority(Presence) ->
    try binary_to_integer(fxml:get_subtag_cdata(xmpp:encode(Presence), <<"priority">>)) catch _:_ -> 0 end.

%% A session that was resumed goes on in another process.
session_closed(_Sid, Jid, _Info) ->
    {User, Host, Resource} = jid:tolower(Jid),
    case ejabberd_sm:get_session_pid(User, Host, Resource) of
        none -> tell_presence(Jid, false);
        _ -> ok
    end.

tell_presence(Jid, Online) ->
    {_, Host, _} = jid:tolower(Jid),
    Status = case Online of true -> online; false -> offline end,
    tell(Host, #{type => presence, jid => jid:encode(Jid), status => Status}).

%% What a session did not acknowledge: when it is lost, and what comes while it is.
session_pending(#{mgmt_queue := Queue} = State) ->
    [tell_unacknowledged(State, Packet) || {_, _, Packet} <- p1_queue:to_list(Queue)],
    State;
session_pending(State) -> State.

stanza_sent(#{mgmt_state := pending} = State, Packet, _Result) ->
    tell_unacknowledged(State, Packet),
    State;
stanza_sent(State, _Packet, _Result) -> State.

%% It will not come back: the message is the user's again, who may be offline by now.
session_terminated(#{mgmt_state := Mgmt, mgmt_queue := Queue, jid := Jid} = State, _Reason)
  when Mgmt =:= active; Mgmt =:= pending; Mgmt =:= timeout ->
    {User, Host, Resource} = jid:tolower(Jid),
    [tell_message(Host, message, jid:make(User, Host), Id, Packet, recipient(User, Host, Resource))
     || {_, _, Packet} <- p1_queue:to_list(Queue), Id <- tell_unacknowledged(State, Packet)],
    State;
session_terminated(State, _Reason) -> State.

%% The id of what was told, if it was.
tell_unacknowledged(#{jid := Jid}, Packet) ->
    {_, Host, _} = jid:tolower(Jid),
    case is_told(Packet) andalso id_of(Packet, Host) of
        Id when is_binary(Id) -> tell_message(Host, unacknowledged, Jid, Id, Packet, none), [Id];
        _ -> []
    end.

user_removed(User, Host) ->
    tell(Host, #{type => user_removed, jid => jid:encode(jid:make(User, Host))}).

tell_message(Host, Type, To, Id, Packet, Recipient) ->
    Stanza = fxml:element_to_binary(xmpp:encode(Packet)),
    Event = #{type => Type, id => Id, from => jid:encode(xmpp:get_from(Packet)), to => jid:encode(To), stanza => Stanza},
    case byte_size(Stanza) of
        Size when Size > ?MAX_STANZA_BYTES ->
            logger:warning("a message of ~B bytes to ~ts is not told to Pushlark", [Size, jid:encode(To)]);
        _ when Recipient =:= none -> tell(Host, Event);
        _ -> tell(Host, Event#{recipient => Recipient})
    end.

tell(Host, Event) ->
    At = calendar:system_time_to_rfc3339(os:system_time(microsecond), [{unit, microsecond}, {offset, "Z"}]),
    gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), {tell, to_json(Event#{at => list_to_binary(At)})}).

%% Events that wait, and the one batch that is on its way.
init([Host | _]) ->
    process_flag(trap_exit, true),
    {ok, #state{host = Host}}.

handle_call(_Request, _From, State) -> {reply, ok, State}.

handle_cast({tell, Event}, State) -> {noreply, next_batch(enqueue(Event, State))}.

handle_info({http, {Request, Result}}, #state{request = Request} = State) -> {noreply, answered(Result, State)};
handle_info(try_again, State) -> {noreply, send_batch(State)};
handle_info(report_dropped, State) -> {noreply, report_dropped(State)};
handle_info(_Info, State) -> {noreply, State}.

terminate(_Reason, #state{length = Length, batch = Batch} = State) ->
    report_dropped(State),
    case Length + batch_size(Batch) of
        0 -> ok;
        Lost -> logger:error("~B events are lost: they waited for Pushlark", [Lost])
    end.

report_dropped(#state{dropped = 0} = State) -> State;
report_dropped(#state{host = Host, dropped = Dropped} = State) ->
    logger:error("~B events are lost: the queue is full (queue_size is ~B, queue_bytes is ~B)",
                 [Dropped, option(Host, queue_size), option(Host, queue_bytes)]),
    State#state{dropped = 0}.

batch_size(undefined) -> 0;
batch_size({_, Events}) -> length(Events).

%% Adds an event, and drops the oldest ones for which there is no room any more. One event always fits.
enqueue(Event, #state{waiting = Waiting, length = Length, bytes = Bytes, dropped = Dropped, host = Host} = State) ->
    case Length < option(Host, queue_size) andalso Bytes + byte_size(Event) =< option(Host, queue_bytes) of
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
    case post(Host, <<"events">>, "application/json", Id, Body, [{sync, false}]) of
        {ok, Request} -> State#state{request = Request};
        Failed -> answered(Failed, State)
    end.

answered(Result, #state{batch = {_, Events}} = State) ->
    case Result of
        {{_, Code, _}, _, _} when Code >= 200, Code < 300 -> next_batch(State#state{batch = undefined});
        %% What the events are at fault for stays so; everything else passes, a wrong secret once somebody mends it.
        {{_, Code, _}, _, Body} when Code =:= 400; Code =:= 413; Code =:= 415 ->
            Bad = bad_events(Body, length(Events)),
            logger:error("~B events are lost: Pushlark answers ~ts: ~ts", [length(Bad), describe(Result), Body]),
            Good = [Event || {Index, Event} <- lists:zip(lists:seq(0, length(Events) - 1), Events), not lists:member(Index, Bad)],
            case Good of
                [] -> next_batch(State#state{batch = undefined});
                _ -> send_batch(State#state{batch = {new_id(), Good}})
            end;
        _ ->
            Wait = min(asked(Result, State#state.wait), ?LAST_WAIT),
            logger:warning("Pushlark does not take events (~ts): ~B wait", [describe(Result), length(Events) + State#state.length]),
            erlang:send_after(Wait * 3 div 4 + rand:uniform(Wait div 2), self(), try_again),
            State#state{request = undefined, wait = min(State#state.wait * 2, ?LAST_WAIT)}
    end.

%% Which events of a batch Pushlark calls bad; all, where it does not say.
bad_events(Body, Count) ->
    try
        #{<<"errors">> := [_ | _] = Errors} = from_json(Body),
        [Index || #{<<"index">> := Index} <- Errors]
    catch _:_ -> lists:seq(0, Count - 1)
    end.

%% How long Pushlark asks to wait, in milliseconds.
asked({_, Headers, _}, Default) ->
    try max(1000, 1000 * list_to_integer(proplists:get_value("retry-after", Headers))) catch _:_ -> Default end;
asked(_, Default) -> Default.

describe({ok, Answer}) -> describe(Answer);
describe({{_, Code, _}, _, _}) -> integer_to_binary(Code);
describe(Error) -> iolist_to_binary(io_lib:format("~0p", [Error])).

%% Posts a body; the id names it in every try (Standard Webhooks).
post(Host, Name, ContentType, Id, Body, Options) ->
    Timestamp = integer_to_binary(os:system_time(second)),
    Signature = case option(Host, secret) of
        <<>> -> [];
        Secret ->
            Mac = crypto:mac(hmac, sha256, key(Secret), [Id, $., Timestamp, $., Body]),
            [{"webhook-id", binary_to_list(Id)}, {"webhook-timestamp", binary_to_list(Timestamp)},
             {"webhook-signature", binary_to_list(<<"v1,", (base64:encode(Mac))/binary>>)}]
    end,
    Url = binary_to_list(url(Host, Name)),
    Tls = case Url of "https:" ++ _ -> [{ssl, httpc:ssl_verify_host_options(true)}]; _ -> [] end,
    Timeout = [{timeout, option(Host, timeout)}, {connect_timeout, option(Host, timeout)}, {autoredirect, false}],
    httpc:request(post, {Url, Signature, ContentType, Body}, Timeout ++ Tls, [{body_format, binary} | Options]).

key(<<"whsec_", Encoded/binary>> = Secret) ->
    try base64:decode(Encoded) catch _:_ -> Secret end;
key(Secret) -> Secret.

url(Host, Name) ->
    case option(Host, binary_to_existing_atom(<<Name/binary, "_url">>)) of
        <<>> -> <<(option(Host, url))/binary, "/", Name/binary>>;
        Url -> Url
    end.

option(Host, Name) -> gen_mod:get_module_opt(Host, ?MODULE, Name).

new_id() -> string:lowercase(binary:encode_hex(crypto:strong_rand_bytes(16))).

%% ejabberd's own since 24.12.
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
