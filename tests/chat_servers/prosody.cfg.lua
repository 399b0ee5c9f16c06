-- What the stories need of Prosody; @NAMES@ are filled in.
pidfile = "@DATA@/prosody.pid"
data_path = "@DATA@"
log = { debug = "@DATA@/prosody.log" }
run_as_root = true
interfaces = { "127.0.0.1" }
c2s_ports = { @C2S_PORT@ }
http_ports = { @HTTP_PORT@ }
http_interfaces = { "127.0.0.1" }
https_ports = {}
http_default_host = "localhost"
modules_disabled = { "s2s" }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
storage = "internal"
plugin_paths = { "@MODULES@", "@STOCK@" }
modules_enabled = { "roster", "saslauth", "disco", "smacks", "offline", "blocklist", "admin_shell" }
smacks_hibernation_time = 3

-- Told by our module, and publishing for it to real nodes.
VirtualHost "localhost"
	modules_enabled = { "pushlark", "rest" }
	pushlark_url = "@PUSHLARK@"
	pushlark_secret = "@SECRET@"
	pushlark_queue_size = 50
	pushlark_queue_bytes = 1048576

Component "pubsub.localhost" "pubsub"
	-- The host, too: publishes are from it, and to a node that was deleted others are answered that it is forbidden.
	admins = { "owner@localhost", "localhost" }

-- Prosody's own push module, and our push node as a component of HTTP.
VirtualHost "plain.localhost"
	modules_enabled = { "cloud_notify" }
	push_notification_with_body = true
	push_notification_with_sender = true
	push_max_errors = 1

Component "push.plain.localhost" "rest"
	rest_callback_url = "@PUSHLARK@/pubsub?token=@TOKEN@"
	rest_callback_content_type = "application/xmpp+xml"

-- Callbacks as they are when nobody says of which type; it is asked for when Prosody starts.
Component "relay.localhost" "rest"
	rest_callback_url = "@PUSHLARK@/events?token=@TOKEN@"
	rest_callback_content_type = "application/json"
