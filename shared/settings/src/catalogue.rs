//! All settings, each declared once. `docs/settings.md`, the template and the README must agree with this file, and
//! tests compare them.
//!
//! To add a setting, declare it here, read it in the `from_environment` of the type that needs it, and add it to the
//! template. The tests name the missing places.

use crate::setting::Reader::{Disable, Enable, Ingest, Local, PushNode, Worker};
use crate::setting::{Number, Reader, Setting, SettingEntry, Switch, Text, Word, Words};

/// The form of the settings that are read as [`crate::HostPatterns`].
const HOSTS: &str = "host patterns";
const URL: &str = "URL";
const ANY: &str = "text";

const ALL: &[Reader] = &[Enable, Disable, Ingest, Worker, PushNode];

/// Declares settings: a doc comment, which is also the purpose in the documentation, then
/// `NAME: Kind = value, for readers;`, with `was "OLD_NAME"` before the semicolon for a name of an earlier version.
macro_rules! catalogue {
    ($($topic:literal {$(
        $(#[doc = $purpose:literal])+
        $name:ident: $kind:ty = $value:expr, for $readers:expr $(, was $($former:literal),+)?;
    )+})+) => {
        $($(
            $(#[doc = $purpose])+
            pub static $name: Setting<$kind> = Setting {
                name: stringify!($name),
                kind: $value,
                readers: $readers,
                purpose: concat!($($purpose),+),
                former: &[$($($former),+)?],
            };
        )+)+

        /// All settings, in the order of the documentation.
        pub fn all() -> Vec<SettingEntry> {
            vec![$($(SettingEntry::new($topic, &$name)),+),+]
        }
    };
}

catalogue! {
    "Access" {
        /// Secrets of chat servers and app backends, comma-separated. `example.com=SECRET` may speak for `example.com`
        /// only. Callers present a secret or sign with it; without any, every request is refused (401).
        WEBHOOK_SECRET: Text = Text::secret("secrets of 16 bytes or more, comma-separated"),
            for &[Enable, Disable, Ingest, PushNode];
        /// Keys that verify the tokens of clients that enable and disable push themselves. Without keys there are no
        /// such clients.
        JWT_KEYS: Text = Text::secret("JWK Set, or the URL of one"), for &[Enable, Disable];
        /// The only signature algorithm that these tokens may use; needed if `JWT_KEYS` is set.
        JWT_ALGORITHM: Word<3> = Word { words: ["HS256", "RS256", "ES256"], default: None }, for &[Enable, Disable];
        /// The issuer (`iss`) that these tokens must have; needed if `JWT_KEYS` is set.
        JWT_ISSUER: Text = Text::new(ANY), for &[Enable, Disable];
        /// The audience (`aud`) that these tokens must have; needed if `JWT_KEYS` is set.
        JWT_AUDIENCE: Text = Text::new(ANY), for &[Enable, Disable];
        /// Most events and requests per domain and minute; 0 means no limit. Costs one extra write for each domain in a
        /// request, which may name at most 1,000 domains.
        RATE_LIMIT: Number = Number::new(0..=1_000_000, "events per minute", 0), for ALL;
    }
    "Registrations" {
        /// Most nodes that a user may enable. A user may also own at most this many nodes at the push node.
        MAX_NODES: Number = Number::new(1..=1_000, "nodes", 20), for ALL;
        /// What happens when a user with `MAX_NODES` nodes enables one more. One more at the push node is always
        /// refused.
        MAX_NODES_REACHED: Word<2> = Word { words: ["replace-oldest", "refuse-newest"], default: Some(0) }, for ALL;
        /// How many users one device may have. `many`: an app may register one device for several accounts. `one`:
        /// the device of another user is taken from that user when it is enabled.
        DEVICE_ACCOUNTS: Word<2> = Word { words: ["many", "one"], default: Some(0) }, for &[Enable, PushNode];
        /// PubSub hosts that stand for the push service (MongooseIM: `virtual_pubsub_hosts`).
        VIRTUAL_PUBSUB_HOSTS: Text = Text::new(HOSTS), for &[Enable, Worker, PushNode];
        /// Real PubSub hosts that users may name; without it, all. Set it: otherwise a user can make the chat server
        /// publish to any node to which the server may write.
        PUBSUB_HOSTS: Text = Text::new(HOSTS), for &[Enable, Worker, PushNode];
    }
    "Events" {
        /// Hosts of rooms, whose senders are shown with their nicks. They also mark group messages of MongooseIM where
        /// neither a topic nor a routing key does.
        MUC_HOSTS: Text = Text::new(HOSTS), for &[Ingest, Worker, PushNode];
        /// Hosts of MUC Light rooms (MongooseIM: `mod_muc_light.host`). Only there is the nick of an occupant the bare
        /// JID of a user, so that the user's own messages do not notify and mark the conversation as read.
        MUC_LIGHT_HOSTS: Text = Text::new(HOSTS).or("muclight.@HOST@"),
            for &[Ingest, Worker, PushNode];
        /// Hosts of MIX channels (XEP-0369). Only their messages name the nick and the JID of the sender.
        MIX_HOSTS: Text = Text::new(HOSTS).or("mix.@HOST@"), for &[Ingest, Worker, PushNode];
        /// Whether contact requests notify. Strangers can send them.
        SUBSCRIPTION_REQUESTS: Switch = Switch { default: true }, for &[Ingest, Worker];

        /// SNS topic of presence (MongooseIM: `presence_updates_topic`).
        SNS_PRESENCE_TOPIC: Text = Text::new("ARN of an SNS topic"), for &[Ingest];
        /// SNS topic of private messages (MongooseIM: `pm_messages_topic`).
        SNS_PM_TOPIC: Text = Text::new("ARN of an SNS topic"), for &[Ingest];
        /// SNS topic of group messages (MongooseIM: `muc_messages_topic`).
        SNS_MUC_TOPIC: Text = Text::new("ARN of an SNS topic"), for &[Ingest];
        /// Endpoint of SNS in a VPC without Internet access.
        AWS_ENDPOINT_URL_SNS: Text = Text::new(URL), for &[Ingest];
        /// How long a session is remembered after its last presence, so that a lost "offline" does not suppress
        /// notifications for ever.
        SESSION_LIFETIME: Number = Number::new(1..=365 * 86_400, "seconds", 7 * 86_400), for ALL;
        /// `on`: Pushlark counts unread messages (MongooseIM: `mod_inbox`) where events do not have `unread_count`.
        /// Costs two or three extra reads per event, and one extra write if nobody is notified. A conversation that is
        /// read costs two more writes, and its next messages one more read each.
        UNREAD_COUNTS: Switch = Switch { default: false }, for &[Ingest, Worker];
        /// `on`: when a conversation is read, the devices that show its notifications get a silent push that clears
        /// them. Costs one extra write per notified event.
        CLEAR_WHEN_READ: Switch = Switch { default: false }, for &[Ingest, Worker];
    }
    "Decision" {
        /// The plugin that decides who is notified (MongooseIM: `plugin_module`): `defaults`, `enhanced`, `hints`,
        /// `rules`, another plugin of this worker, or `lambda:` and the name or ARN of a function.
        PLUGIN: Text = Text::new("name, or `lambda:` and a name or ARN").or("defaults"),
            for &[Ingest, Worker];
        /// What keeps a repeated event from notifying again: `claims` in the table, or `collapse`: a repeat notifies, and
        /// replaces its own notification on the device. `collapse` saves the write of an event, and needs
        /// `PUSH_SERVICE=direct`, `UNREAD_COUNTS=off`, and a plugin that does not notify of unacknowledged messages.
        DEDUPLICATION: Word<2> = Word { words: ["claims", "collapse"], default: Some(0) }, for &[Worker];
        /// The rules of `PLUGIN=rules`, or their place: `file:` and a path, `s3://bucket/key`, or the ARN of a parameter
        /// in Parameter Store or of a secret in Secrets Manager. An object or a file has at most 64 KiB.
        RULES: Text = Text::new("TOML of at most 1,024 bytes, or its place"), for &[Worker];
        /// How often rules in another place are read again: 0 for never, or at least 60. New rules that are not valid or
        /// cannot be read are logged, and the rules of before stay.
        RULES_REFRESH: Number = Number::new(0..=86_400, "seconds", 0), for &[Worker];
        /// Time for one call of a plugin that is a Lambda function.
        PLUGIN_TIMEOUT_MS: Number = Number::new(100..=2_500, "milliseconds", 2_000), for &[Worker];
        /// What happens when that function gives no decision: ask again later, or decide as the plugin `defaults`.
        PLUGIN_ON_ERROR: Word<2> = Word { words: ["retry", "defaults"], default: Some(0) }, for &[Worker];
    }
    "Content" {
        /// Whether notifications contain the text of the message (ejabberd: `include_body`).
        INCLUDE_BODY: Switch = Switch { default: true }, for &[Worker];
        /// Whether notifications contain the sender of the message (ejabberd: `include_sender`).
        INCLUDE_SENDER: Switch = Switch { default: true }, for &[Worker];
        /// The text in place of one that is left out or encrypted.
        BODY_PLACEHOLDER: Text = Text::new(ANY).or("New message"), for &[Worker];
        /// The text of an invitation to a room without a text or reason of its own. `{room}` is the room's JID.
        INVITATION_PLACEHOLDER: Text = Text::new(ANY).or("Invitation to {room}"), for &[Worker];
        /// The text of a contact request.
        SUBSCRIPTION_PLACEHOLDER: Text = Text::new(ANY).or("Contact request"), for &[Worker];
        /// The text of a call on a device that cannot ring.
        CALL_PLACEHOLDER: Text = Text::new(ANY).or("Incoming call"), for &[Worker];
        /// The badge: the unread messages of the conversation, or those of all conversations. By default `total` with
        /// `PUSH_SERVICE=direct`, and `conversation` otherwise, as with MongooseIM.
        BADGE: Word<2> = Word { words: ["conversation", "total"], default: None }, for &[Worker];
        /// How long further messages of a conversation reach a device without a sound after an alert with one; 0 means
        /// that each alert makes a sound. Costs one extra write for each alert with a sound.
        ALERT_INTERVAL: Number = Number::new(0..=86_400, "seconds", 0), for &[Worker];
        /// Extra data fields of group messages: `urgent` (XEP-0131, `Urgency: high`), `mention` (the recipient is
        /// mentioned by XEP-0372, by XEP-0513 or as `@localpart`).
        GROUP_DATA: Words<2> = Words(["urgent", "mention"]), for &[Worker];
    }
    "Push services" {
        /// The push service of virtual hosts: `mongoosepush`; `direct` for APNs, FCM, Web Push and UnifiedPush; or the
        /// URL of your own.
        PUSH_SERVICE: Text = Text::new("`mongoosepush`, `direct` or URL").or("mongoosepush"),
            for &[Enable, Worker, PushNode];
        /// The credentials of the apps, for `PUSH_SERVICE=direct`.
        PUSH_CREDENTIALS: Text = Text::secret("JSON of apps"), for &[Worker];
        /// The key that signs notifications to your own push service.
        PUSH_SERVICE_SECRET: Text = Text::secret("secret of 16 bytes or more"), for &[Worker];
        /// Base URL of MongoosePush (MongooseIM: `mod_push_service_mongoosepush`).
        MONGOOSEPUSH_URL: Text = Text::new(URL), for &[Worker];
        /// API version of MongoosePush. With `v2`, most errors have the status 500, so fewer devices that are gone are
        /// detected.
        MONGOOSEPUSH_API_VERSION: Word<2> = Word { words: ["v2", "v3"], default: Some(1) }, for &[Worker];
        /// Origins of Web Push and UnifiedPush that may have a private address, another port than 443, or no TLS.
        WEB_PUSH_TRUSTED_ORIGINS: Text = Text::new("origins (scheme, host and port), comma-separated"),
            for &[Enable, Worker, PushNode];
        /// Disable a device after this many answers in a row that may mean that the device is gone.
        DISABLE_AFTER_SUSPECTS: Number = Number::new(1..=1_000, "answers", 3), for &[Worker];
        /// If more than this percentage of the recent answers of a push service say that the device is gone, no device
        /// is disabled.
        DISABLE_MAX_PERCENT: Number = Number::new(1..=100, "percent", 50), for &[Worker];
    }
    "Real PubSub nodes" {
        /// Where stanzas to real PubSub nodes are posted: a chat server's HTTP interface (Prosody: `mod_rest`) or the
        /// bridge. `example.com=URL` is for the users of `example.com` only.
        PUBSUB_URL: Text = Text::new("URLs, comma-separated, each with or without `domain=`"),
            for &[Enable, Worker, PushNode];
        /// The bearer token for `PUBSUB_URL`; with several URLs, tokens by domain in the same form.
        PUBSUB_TOKEN: Text = Text::secret("tokens, comma-separated, each with or without `domain=`"),
            for &[Worker];
        /// PubSub services that do not accept publish options, such as ejabberd's.
        PUBSUB_WITHOUT_OPTIONS: Text = Text::new(HOSTS), for &[Worker];
        /// Disable a node after this many errors in a row; 0 means never. Errors that say that the node is gone disable
        /// it at once.
        PUBSUB_MAX_ERRORS: Number = Number::new(0..=1_000, "errors", 0), for &[Worker];
    }
    "Push node" {
        /// How a publication without a text is notified: as an `alert` with `BODY_PLACEHOLDER`, or as `data` in the
        /// background. ejabberd publishes so both texts that it does not tell and chat markers.
        PUSH_NODE_EMPTY: Word<2> = Word { words: ["alert", "data"], default: Some(0) }, for &[PushNode];
    }
    "Throughput" {
        /// Most workers at the same time (MongooseIM: `wpool.workers`).
        WORKERS: Number = Number::new(2..=1_000, "workers", 100), for &[Local];
        /// Most messages per batch. More than 10 need a `BATCHING_WINDOW`.
        BATCH_SIZE: Number = Number::new(1..=10_000, "messages", 10), for &[Local];
        /// Seconds that a batch waits to fill. Larger batches cost less and notify later.
        BATCHING_WINDOW: Number = Number::new(0..=300, "seconds", 0)
            .one_of(&[0, 1, 2, 3, 4, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300]), for &[Local];
        /// `on`: messages carry the recipients' domain as their message group, so that one domain's flood does not delay
        /// the notifications of others (Amazon SQS fair queues). SQS then costs a quarter more, and recipients of
        /// several domains in one request need a message for each domain.
        FAIR_QUEUES: Switch = Switch { default: false }, for &[Ingest, Worker, PushNode];
        /// Publishes at the same time within a worker. One recipient, or one origin of Web Push, gets at most a
        /// quarter.
        WORKER_CONCURRENCY: Number = Number::new(1..=1_000, "publishes", 32), for &[Worker];
        /// Time for one publish. A worker has 10 seconds for a whole batch.
        PUBLISH_TIMEOUT_MS: Number = Number::new(100..=5_000, "milliseconds", 5_000), for &[Worker];
        /// How long a notification is worth delivering, if its form has no `time_to_live`. Retries end with it.
        TIME_TO_LIVE: Number = Number::new(60..=14 * 86_400, "seconds", 86_400), for &[Worker];
        /// How long a call is worth delivering.
        CALL_TIME_TO_LIVE: Number = Number::new(5..=300, "seconds", 30), for &[Worker];
        /// Whether the end of a call is sent to the devices of a user, except those of APNs.
        CALL_END: Switch = Switch { default: true }, for &[Worker];
    }
    "Operation" {
        /// `error`, `warn`, `info`, `debug` or `trace`, and levels of single parts, such as `info,worker=debug`.
        /// `debug` shows message bodies and the answers of push services.
        LOG_LEVEL: Text = Text::new("level, or levels, comma-separated").or("info"), for ALL;
        /// The events that have a log line of their own at `info`: `all`; `errors`, those of which a notification
        /// failed, was refused or will be retried; `off`, none. Warnings and errors are logged as `LOG_LEVEL` says.
        LOG_EVENTS: Word<3> = Word { words: ["all", "errors", "off"], default: Some(0) }, for &[Worker];
        /// The dimension `Stack` of the metrics, set by the template; without it the metrics have no dimension.
        STACK_NAME: Text = Text::new(ANY), for ALL;
        /// Name or ARN of the DynamoDB table, set by the template.
        TABLE_NAME: Text = Text::new("name or ARN"), for ALL;
        /// URL of the queue of events, set by the template.
        QUEUE_URL: Text = Text::new(URL), for &[Ingest, Worker, PushNode];
        /// URL of the queue for records that cannot be understood, set by the template.
        DEAD_LETTER_QUEUE_URL: Text = Text::new(URL), for &[Worker];
        /// PEM file of root certificates that are trusted in addition to the built-in ones of Mozilla, for servers with a
        /// private CA. On AWS the file comes with a layer (`/opt/…`) or the image.
        EXTRA_CA_FILE: Text = Text::new("path"), for ALL;
        /// Endpoint of Lambda, for a plugin that runs on this machine.
        AWS_ENDPOINT_URL_LAMBDA: Text = Text::new(URL), for &[Worker];
        /// Endpoint of S3, for an emulator on this machine, or in a VPC without Internet access.
        AWS_ENDPOINT_URL_S3: Text = Text::new(URL), for &[Worker];
        /// Endpoint of Systems Manager (Parameter Store), for an emulator on this machine, or in a VPC without Internet
        /// access.
        AWS_ENDPOINT_URL_SSM: Text = Text::new(URL), for &[Worker];
        /// Endpoint of Secrets Manager, for an emulator on this machine.
        AWS_ENDPOINT_URL_SECRETS_MANAGER: Text = Text::new(URL), for &[Local];
    }
}
