%% Tells Pushlark what happens at a host: messages to its users, their presence, what a lost session did not acknowledge
%% (XEP-0198), and users that are removed; and lets Pushlark answer the users' requests to enable and disable push
%% notifications (XEP-0357). Nothing waits for Pushlark: events are queued in memory, within a bound.
-module(mod_pushlark).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([claim_requests/0, decode_iq_subel/1, process_iq/1, account_features/5, server_features/5, message/1,
         self_presence/1, session_closed/3, session_pending/1, stanza_sent/3, session_terminated/2, user_removed/2]).

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

%% Run when all modules are started, and when the configuration was read again.
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

%% The events that wait, how many they are and how many bytes they have; how many were dropped since the last report.
-record(state, {host, waiting = queue:new(), length = 0, bytes = 0, dropped = 0,
                %% The events that are on their way, {Id, Events}, and the request that they are on their way by.
                batch, request, retry, wait = ?FIRST_WAIT,
                %% Whether the last events were taken, and whether another push module was reported when a client enabled.
                taken = false, reported = false}).

start(Host, Opts) ->
    {ok, _} = application:ensure_all_started(inets),
    {ok, _} = application:ensure_all_started(ssl),
    %% Without the options: what crashes shows what it was started with.
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

%% Checked by read_settings/1: a bad value turns push off, where one that ejabberd refuses would keep it from starting.
mod_opt_type(_Option) -> econf:any().

mod_options(_Host) ->
    [{url, <<>>}, {enable_url, <<>>}, {disable_url, <<>>}, {events_url, <<>>}, {secret, <<>>},
     {timeout, 10}, {queue_size, 10000}, {queue_bytes, 16 * 1024 * 1024}].

mod_doc() -> #{desc => <<"Push notifications (XEP-0357) by Pushlark.">>}.

%% Without right settings push is off, and chat goes on.
configure(Host, Opts) ->
    Former = settings(Host),
    case read_settings(Opts) of
        {ok, Settings} ->
            maps:get(key, Settings) =:= none andalso
                logger:warning("~ts: secret is not set: only a Pushlark without WEBHOOK_SECRET takes what is not signed",
                               [Host]),
            persistent_term:put({?MODULE, Host}, Settings),
            Former =:= off andalso
                [ejabberd_hooks:add(Hook, Host, ?MODULE, Function, Order) || {Hook, Function, Order} <- ?HOOKS],
            claim_requests(Host),
            gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), try_now);
        {error, Problems} ->
            Then = case Former of off -> "push is off"; _ -> "the former settings stay" end,
            logger:error("~ts: ~ts: ~ts", [Host, Then, lists:join("; ", Problems)])
    end,
    ok.

settings(Host) -> persistent_term:get({?MODULE, Host}, off).

setting(Host, Name) -> maps:get(Name, settings(Host)).

%% The settings, or all that is wrong with them; a secret is never part of that.
read_settings(Opts) ->
    {Numbers, BadNumbers} = lists:unzip([number(Name, Opts) || Name <- [queue_size, queue_bytes]]),
    {Timeout, BadTimeout} = timeout(gen_mod:get_opt(timeout, Opts)),
    {Key, BadKey} = key(gen_mod:get_opt(secret, Opts)),
    {[Base | Own], BadUrls} = lists:unzip([url(Name, Opts) || Name <- [url, enable_url, disable_url, events_url]]),
    Names = [<<"enable">>, <<"disable">>, <<"events">>],
    BadMissing = case [[Name, "_url"] || {Name, none} <- lists:zip(Names, Own), Base =:= none] of
        [] -> [];
        Missing -> [["neither url nor ", lists:join(", ", Missing), " is set"]]
    end,
    case lists:append([BadTimeout, BadKey, BadMissing | BadNumbers ++ BadUrls]) of
        [] ->
            Urls = [{Name, case Url of none -> <<Base/binary, "/", Name/binary>>; _ -> Url end}
                    || {Name, Url} <- lists:zip(Names, Own)],
            {ok, maps:from_list([{timeout, Timeout}, {key, Key} | Numbers ++ Urls])};
        Problems -> {error, Problems}
    end.

number(Name, Opts) ->
    case econf:validate(econf:pos_int(), gen_mod:get_opt(Name, Opts)) of
        {ok, Number} -> {{Name, Number}, []};
        _ -> {none, [io_lib:format("~ts must be a whole number from 1", [Name])]}
    end.

timeout(Value) ->
    case econf:validate(econf:timeout(second), Value) of
        {ok, Timeout} when Timeout >= 1000, Timeout =< 600000 -> {Timeout, []};
        _ -> {none, ["timeout must be from 1 to 600 seconds"]}
    end.

url(Name, Opts) ->
    Value = gen_mod:get_opt(Name, Opts),
    case econf:validate(econf:binary("^(https?://[^\\s/?#]+[^\\s#]*)?$"), Value) of
        {ok, <<>>} -> {none, []};
        {ok, Url} when Name =:= url -> {string:trim(Url, trailing, "/"), []};
        {ok, Url} -> {Url, []};
        _ -> {bad, [io_lib:format("~ts must be a URL that begins with https:// or http://", [Name])]}
    end.

key(Value) ->
    case econf:validate(econf:binary(), Value) of
        {ok, <<>>} -> {none, []};
        {ok, Secret} ->
            try key_of(string:trim(Secret)) of
                Key when byte_size(Key) >= ?MIN_SECRET_BYTES -> {Key, []};
                _ -> {none, [io_lib:format("secret must have ~B bytes or more", [?MIN_SECRET_BYTES])]}
            catch _:_ -> {none, ["secret must be base64 behind whsec_"]}
            end;
        _ -> {none, ["secret must be a string"]}
    end.

key_of(<<"whsec_", Encoded/binary>>) ->
    Key = base64:decode(Encoded),
    Encoded = base64:encode(Key),
    Key;
key_of(Secret) -> Secret.

%% ejabberd's own push modules take the same requests, and notify on their own; of two modules the later one gets them.
claim_requests() -> [claim_requests(Host) || Host <- ejabberd_option:hosts(), settings(Host) =/= off].

claim_requests(Host) ->
    [gen_iq_handler:add_iq_handler(Where, Host, ?NS_PUSH, ?MODULE, process_iq) || Where <- [ejabberd_sm, ejabberd_local]],
    report_others(Host).

report_others(Host) ->
    case [Module || Module <- [mod_push, mod_push_keepalive], gen_mod:is_loaded(Host, Module)] of
        [] -> false;
        Others ->
            logger:error("~ts: this host has ~ts, too, so users may be notified twice: unload one push module",
                         [Host, lists:join(" and ", [atom_to_list(Module) || Module <- Others])]),
            true
    end.

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
            logger:warning("~ts: ~ts answers no request to ~ts push: ~ts; the client may try again",
                           [Host, shown(setting(Host, Name)), Name, described(Result)]),
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

%% The text of the error for a client.
explained({{_, Code, _}, _, _}) when Code =:= 401; Code =:= 403 ->
    <<"The push service refuses this server, whose administrator must check the secret">>;
explained({{_, Code, _}, _, _}) when Code =:= 429; Code >= 500 ->
    <<"The push service cannot take the request now, try again later">>;
explained({{_, _, _}, _, _}) ->
    <<"The push service is not where this server asks for it, its administrator must check the URL">>;
explained(_Error) ->
    <<"The push service does not answer, try again later">>.

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
    start_client(Host),
    {ok, #state{host = Host}}.

handle_call(_Request, _From, State) -> {reply, ok, State}.

handle_cast({tell, Event}, State) -> {noreply, next_batch(enqueue(Event, State))};
%% The next try need not wait, since it may be the first one with the right settings.
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
        Lost -> logger:error("~ts: ~B events are lost: they waited for Pushlark", [Host, Lost])
    end.

report_dropped(#state{dropped = 0} = State) -> State;
report_dropped(#state{host = Host, dropped = Dropped} = State) ->
    logger:error("~ts: ~B events are lost: the queue is full (queue_size is ~B, queue_bytes is ~B)",
                 [Host, Dropped, setting(Host, queue_size), setting(Host, queue_bytes)]),
    State#state{dropped = 0}.

batch_size(undefined) -> 0;
batch_size({_, Events}) -> length(Events).

%% Adds an event, and drops the oldest ones for which there is no room any more. One event always fits.
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
            State#state.taken orelse logger:info("~ts: ~ts takes events", [Host, Url]),
            next_batch(State#state{batch = undefined, taken = true});
        %% What the events are at fault for stays so; everything else passes, a wrong secret once somebody mends it.
        {{{_, Code, _}, _, _}, #{} = Problem} when Code =:= 400; Code =:= 413; Code =:= 415 ->
            Good = good_events(Problem, Events),
            logger:error("~ts: ~B events are lost, ~ts does not take them: ~ts",
                         [Host, length(Events) - length(Good), Url, described(Result)]),
            case Good of
                [] -> next_batch(State#state{batch = undefined});
                _ -> send_batch(State#state{batch = {new_id(), Good}})
            end;
        _ ->
            Most = min(asked(Result, State#state.wait), ?LAST_WAIT),
            Wait = Most * 3 div 4 + rand:uniform(Most div 2),
            logger:warning("~ts: ~ts takes no events: ~ts; ~B wait, next try in ~B seconds",
                           [Host, Url, described(Result), length(Events) + State#state.length, max(1, round(Wait / 1000))]),
            Retry = erlang:start_timer(Wait, self(), try_again),
            State#state{retry = Retry, wait = min(State#state.wait * 2, ?LAST_WAIT), taken = false}
    end.

%% The events of a batch that Pushlark does not call bad; none, where it does not say.
good_events(Problem, Events) ->
    Bad = case Problem of
        #{<<"errors">> := Errors} when is_list(Errors) -> [Index || #{<<"index">> := Index} <- Errors];
        _ -> []
    end,
    case [Event || {Index, Event} <- lists:zip(lists:seq(0, length(Events) - 1), Events), not lists:member(Index, Bad)] of
        Events -> [];
        Good -> Good
    end.

%% How long Pushlark asks to wait, in milliseconds.
asked({_, Headers, _}, Default) ->
    try max(1000, 1000 * list_to_integer(proplists:get_value("retry-after", Headers))) catch _:_ -> Default end;
asked(_, Default) -> Default.

%% The problem details (RFC 9457) of an answer of Pushlark's.
problem({{_, _, _}, Headers, Body}) ->
    try
        "application/problem+json" ++ _ = proplists:get_value("content-type", Headers),
        #{} = from_json(Body)
    catch _:_ -> none
    end;
problem(_Error) -> none.

%% Why an answer is none that was hoped for.
described({{_, Code, _}, Headers, _} = Answer) ->
    Location = proplists:get_value("location", Headers),
    Reason = case problem(Answer) of
        #{<<"detail">> := Detail} when is_binary(Detail) -> cleaned(Detail);
        #{} -> "no detail";
        none when Location =/= undefined, Code div 100 =:= 3 -> ["a redirect to ", shown(cleaned(Location))];
        none -> ["not as Pushlark does: ", cleaned(proplists:get_value("content-type", Headers, "no content type"))]
    end,
    io_lib:format("it answers ~B (~ts)", [Code, Reason]);
described({error, Reason}) -> io_lib:format("it does not answer (~ts)", [reason(Reason)]).

%% Why a request had no answer, which no term of Erlang's tells an administrator.
reason({failed_connect, Tried}) -> reason(element(3, lists:last([Try || {_, _, _} = Try <- Tried])));
reason({tls_alert, {Alert, _}}) -> ["TLS fails: ", string:replace(atom_to_list(Alert), "_", " ", all)];
reason(timeout) -> "no answer within the time for it";
reason(nxdomain) -> "the host name cannot be resolved";
reason(closed) -> "the connection was closed";
reason(socket_closed_remotely) -> "the connection was closed";
reason(Reason) when is_atom(Reason) ->
    case inet:format_error(Reason) of "unknown POSIX error" ++ _ -> atom_to_list(Reason); Known -> Known end;
reason(_Reason) -> "the connection fails".

%% A URL as a log may show it.
shown(Url) -> re:replace(re:replace(Url, "//[^/@]*@", "//"), "\\?.*", "", [dotall, unicode, {return, binary}]).

%% Text of somebody else's on one line of a log.
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

%% An HTTP client of the host's own, since requests end for sure with their client only: to 503 with Retry-After httpc
%% says nothing, and sends the request again for as long as that is the answer.
client(Host) -> gen_mod:get_module_proc(Host, ?MODULE).

start_client(Host) ->
    inets:stop(httpc, client(Host)),
    {ok, _} = inets:start(httpc, [{profile, client(Host)}]).

%% When httpc has neither given an answer nor said that there is none.
overdue(Host) -> setting(Host, timeout) + 1000.

busy() -> {{"HTTP/1.1", 503, ""}, [{"content-type", "application/problem+json"}], <<"{\"detail\": \"to each try\"}">>}.

%% Posts a body; the id names it in every try (Standard Webhooks).
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
