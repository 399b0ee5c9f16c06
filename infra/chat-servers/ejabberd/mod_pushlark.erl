%% Sends a host's events (mod_pushlark_events) to Pushlark, and forwards the users' requests to enable and disable push
%% notifications (XEP-0357). Chat never waits for Pushlark: events wait in a bounded queue in memory.
-module(mod_pushlark).

-behaviour(gen_mod).
-behaviour(gen_server).

-export([start/2, stop/1, reload/3, depends/2, mod_opt_type/1, mod_options/1, mod_doc/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).
-export([claim_requests/0, decode_iq_subel/1, process_iq/1, account_features/5, server_features/5]).
%% For mod_pushlark_events.
-export([send_event/2, timestamp/1, setting/2, new_id/0]).

-define(NS_PUSH, <<"urn:xmpp:push:0">>).
%% Push, and its extensions of Tigase, which clients use only if they are announced. Pushlark implements them.
-define(FEATURES, [
    ?NS_PUSH, <<"tigase:push:away:0">>, <<"tigase:push:encrypt:0">>, <<"tigase:push:encrypt:aes-128-gcm">>,
    <<"tigase:push:filter:groupchat:0">>, <<"tigase:push:filter:ignore-unknown:0">>, <<"tigase:push:filter:muted:0">>,
    <<"tigase:push:jingle:0">>, <<"tigase:push:priority:0">>
]).
%% These run when all modules have started, and after the configuration was reloaded.
-define(GLOBAL_HOOKS, [ejabberd_started, config_reloaded]).

-define(BATCH_EVENTS, 100).
-define(BATCH_BYTES, 512 * 1024).
%% Milliseconds.
-define(FIRST_WAIT, 1000).
-define(LAST_WAIT, 60000).
-define(REPORT_WAIT, 10000).
%% The wait for more events of a batch; the waits for the next refresh of presence, if sessions are left and otherwise.
-define(GATHER_WAIT, 2).
-define(REFRESH_NEXT, 1000).
-define(REFRESH_LAST, 3600000).
-define(MIN_SECRET_BYTES, 16).
-define(MAX_DETAIL_CHARS, 300).

%% The queue of JSON events, its length and size in bytes, and the number of events dropped since the last report.
-record(state, {host, waiting = queue:new(), length = 0, bytes = 0, dropped = 0,
                %% The batch in flight, {Id, Events}; its request, or the timer of its retry, and the wait in milliseconds.
                batch, request, retry, wait = ?FIRST_WAIT,
                %% Whether the next batch is gathered; the timer of the next refresh of presence.
                gathering = false, refresh,
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
    [ejabberd_hooks:delete(Hook, Host, Module, Function, Order) || {Hook, Module, Function, Order} <- hooks()],
    [gen_iq_handler:remove_iq_handler(Where, Host, ?NS_PUSH) || Where <- [ejabberd_sm, ejabberd_local]],
    Stopped = gen_mod:stop_child(?MODULE, Host),
    persistent_term:erase({?MODULE, Host}),
    Stopped.

reload(Host, Opts, _Old) -> configure(Host, Opts).

hooks() ->
    [{disco_sm_features, ?MODULE, account_features, 50}, {disco_local_features, ?MODULE, server_features, 50}
     | [{Hook, Module, Function, Order} || Module <- [mod_pushlark_events, mod_pushlark_senders],
                                           {Hook, Function, Order} <- Module:hooks()]].

depends(_Host, _Opts) -> [].

%% read_settings/1 checks the values: a bad value turns push off. If ejabberd refused it, ejabberd would not start.
mod_opt_type(_Option) -> econf:any().

mod_options(_Host) ->
    [{url, <<>>}, {enable_url, <<>>}, {disable_url, <<>>}, {events_url, <<>>}, {secret, <<>>},
     {presence_refresh, 86400}, {timeout, 10}, {queue_size, 10000}, {queue_bytes, 16 * 1024 * 1024},
     {csi_events, false}, {names, true}].

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
                [ejabberd_hooks:add(Hook, Host, Module, Function, Order) || {Hook, Module, Function, Order} <- hooks()],
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
    {Numbers, BadNumbers} = lists:unzip([number(Name, Opts) || Name <- [queue_size, queue_bytes, presence_refresh]]),
    {Timeout, BadTimeout} = timeout(gen_mod:get_opt(timeout, Opts)),
    {Key, BadKey} = key(gen_mod:get_opt(secret, Opts)),
    {[Base | Own], BadUrls} = lists:unzip([url(Name, Opts) || Name <- [url, enable_url, disable_url, events_url]]),
    {Switches, BadSwitches} = lists:unzip([switch(Name, Opts) || Name <- [csi_events, names]]),
    Names = [<<"enable">>, <<"disable">>, <<"events">>],
    BadMissing = case [[Name, "_url"] || {Name, none} <- lists:zip(Names, Own), Base =:= none] of
        [] -> [];
        Missing -> [["neither url nor ", lists:join(", ", Missing), " is set"]]
    end,
    case lists:append([BadTimeout, BadKey, BadMissing | BadSwitches ++ BadNumbers ++ BadUrls]) of
        [] ->
            Urls = [{Name, case Url of none -> <<Base/binary, "/", Name/binary>>; _ -> Url end}
                    || {Name, Url} <- lists:zip(Names, Own)],
            {ok, maps:from_list([{timeout, Timeout}, {key, Key} | Switches ++ Numbers ++ Urls])};
        Problems -> {error, Problems}
    end.

number(Name, Opts) ->
    case econf:validate(econf:pos_int(), gen_mod:get_opt(Name, Opts)) of
        {ok, Number} -> {{Name, Number}, []};
        _ -> {none, [io_lib:format("~ts must be a whole number of at least 1", [Name])]}
    end.

switch(Name, Opts) ->
    case econf:validate(econf:bool(), gen_mod:get_opt(Name, Opts)) of
        {ok, Switch} -> {{Name, Switch}, []};
        _ -> {none, [io_lib:format("~ts must be true or false", [Name])]}
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
    mod_pushlark_events:device_asked(xmpp:get_from(Iq)),
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

announced({result, Features}) -> {result, ?FEATURES ++ Features};
announced(empty) -> {result, ?FEATURES};
announced(Error) -> Error.

%% Sends an event. Its time is now, unless the event has one.
send_event(Host, Event) ->
    Json = to_json(maps:merge(#{at => timestamp(os:system_time(microsecond))}, Event)),
    gen_server:cast(gen_mod:get_module_proc(Host, ?MODULE), {send_event, Json}).

%% Converts a time in microseconds since 1970 to RFC 3339.
timestamp(Micros) ->
    list_to_binary(calendar:system_time_to_rfc3339(Micros, [{unit, microsecond}, {offset, "Z"}])).

%% The queue of events, and the one batch in flight.
init([Host | _]) ->
    process_flag(trap_exit, true),
    start_client(Host),
    mod_pushlark_events:new_told(Host),
    {ok, refresh_after(?REFRESH_NEXT, #state{host = Host})}.

handle_call(_Request, _From, State) -> {reply, ok, State}.

handle_cast({send_event, Event}, #state{gathering = true} = State) -> {noreply, enqueue(Event, State)};
handle_cast({send_event, Event}, State) ->
    erlang:send_after(?GATHER_WAIT, self(), gathered),
    {noreply, enqueue(Event, State#state{gathering = true})};
%% Retry at once, since the new settings may be the right ones.
handle_cast(try_now, #state{retry = Retry, refresh = Refresh} = State) ->
    erlang:cancel_timer(Refresh),
    Restarted = refresh_after(?REFRESH_NEXT, State#state{wait = ?FIRST_WAIT}),
    case Retry of
        undefined -> {noreply, next_batch(Restarted)};
        _ ->
            erlang:cancel_timer(Retry),
            {noreply, send_batch(Restarted)}
    end;
handle_cast(client_asked, #state{host = Host, reported = Reported} = State) ->
    {noreply, State#state{reported = Reported orelse report_others(Host)}}.

handle_info({http, {Request, Result}}, #state{request = Request} = State) ->
    {noreply, answered(Result, State#state{request = undefined})};
handle_info({timeout, _, {overdue, Request}}, #state{host = Host, request = Request} = State) ->
    start_client(Host),
    {noreply, answered(busy(), State#state{request = undefined})};
handle_info({timeout, Retry, try_again}, #state{retry = Retry} = State) -> {noreply, send_batch(State)};
handle_info(gathered, State) -> {noreply, next_batch(State#state{gathering = false})};
handle_info({timeout, Refresh, refresh}, #state{host = Host, refresh = Refresh} = State) ->
    {noreply, refresh_after(refresh(State, settings(Host)), State)};
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

refresh_after(Wait, State) -> State#state{refresh = erlang:start_timer(Wait, self(), refresh)}.

%% Sends presence again, unless push is off or events wait. Returns the wait for the next time.
refresh(#state{host = Host, batch = undefined, length = 0}, #{presence_refresh := Period}) ->
    case mod_pushlark_events:refresh(Host, Period) of
        true -> min(Period * 250, ?REFRESH_LAST);
        false -> ?REFRESH_NEXT
    end;
refresh(_State, _Settings) -> ?REFRESH_NEXT.

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
            mod_pushlark_events:events_lost(Host),
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
            mod_pushlark_events:events_lost(Host),
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
